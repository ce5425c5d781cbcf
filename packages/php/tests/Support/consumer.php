<?php

// Reads the feed to its end, and kills itself after as many entries as the fourth argument says, before or after it has
// saved the cursor. It appends each entry's id to a file.

declare(strict_types=1);

use Switchboard\Client;
use Switchboard\Feed;

require __DIR__ . '/../../autoload.php';

[, $url, $key, $directory, $left, $saved] = $argv;
$die = static function (): never {
    posix_kill(getmypid(), SIGKILL);
    exit;
};
$save = static function (string $cursor) use ($directory, $saved, &$left, $die): void {
    if ($left <= 0 && $saved === 'unsaved') {
        $die();
    }
    file_put_contents("$directory/cursor.new", $cursor);
    rename("$directory/cursor.new", "$directory/cursor");
    if ($left <= 0) {
        $die();
    }
};
$cursor = is_file("$directory/cursor") ? file_get_contents("$directory/cursor") : '0';
$feed = new Feed(new Client($url, $key), $cursor, $save, limit: 20, follow: false);
foreach ($feed as $entry) {
    file_put_contents("$directory/entries", "$entry->id {$entry->data['type']}\n", FILE_APPEND);
    $left--;
}
