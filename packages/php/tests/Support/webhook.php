<?php

// An endpoint of webhooks for `php -S`: it prints each entry. Its secret is in a file, because a test knows it later.

declare(strict_types=1);

use Switchboard\Entry;
use Switchboard\Handlers;

require __DIR__ . '/../../autoload.php';

$print = static function (Entry $entry): void {
    file_put_contents('php://stderr', "entry $entry->type " . ($entry->event['text'] ?? '-') . "\n");
};
$handlers = new Handlers(file((string) getenv('HOOK_SECRETS'), FILE_IGNORE_NEW_LINES));
$handlers->on('message', $print)->on('webhook.test', $print)->serve();
