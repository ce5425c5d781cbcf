<?php

// An application's hook, for `php -S` and php-fpm.

declare(strict_types=1);

use Switchboard\Answer;
use Switchboard\Ask;
use Switchboard\Entry;
use Switchboard\Handlers;

require __DIR__ . '/../../autoload.php';

(new Handlers((string) getenv('HOOK_SECRET')))
    ->onOpen(fn (Ask $ask) => Answer::accept(['name' => ucfirst($ask->user)], ['#general']))
    ->onMessage(fn (Ask $ask) => match ($ask->message['text'] ?? null) {
        'spam' => Answer::refuse('No advertisements here.'),
        'damn' => Answer::replace(text: 'd***', data: null),
        'crash' => throw new RuntimeException('the data base is away'),
        default => null,
    })
    ->onClose(fn (Entry $entry) => file_put_contents((string) getenv('HOOK_LOG'), $entry->user(), FILE_APPEND))
    ->serve();
