<?php
// php notify.php alice order-17 "Your order is on its way.": sends a message to a user as the shop. The second argument is
// the idempotency key: another run with the same one stores nothing.

require __DIR__ . '/chat.php';

[, $user, $once, $text] = $argv + [3 => ''];
if ($text === '') {
    fwrite(STDERR, "usage: php notify.php USER IDEMPOTENCY-KEY TEXT\n");
    exit(2);
}
$stored = chat_command(getenv('CHAT_SERVER'), getenv('CHAT_API_KEY'), 'shop', 'send', ['to' => "@$user", 'text' => $text], $once);
echo $stored['seq'], isset($stored['duplicate']) ? " (already stored)\n" : "\n";
