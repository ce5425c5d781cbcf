<?php

// php notify.php alice order-17 "Your order is on its way.": sends a message to a customer as the shop. The second
// argument is the idempotency key: another run with the same one stores nothing.

declare(strict_types=1);

use Switchboard\Exception\ChatException;

require __DIR__ . '/app.php';

[, $customer, $key, $text] = $argv + [1 => '', '', ''];
if ($text === '') {
    fwrite(STDERR, "usage: php notify.php USER IDEMPOTENCY-KEY TEXT\n");
    exit(2);
}
try {
    $stored = chat()->conversation(support_room($customer))->send($text, key: $key);
} catch (ChatException $failure) {
    fwrite(STDERR, $failure->getMessage() . ($failure->retryable ? ' (try again later)' : '') . "\n");
    exit(1);
}
echo $stored->seq, $stored->duplicate ? " (already stored)\n" : "\n";
