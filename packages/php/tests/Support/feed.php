<?php

// `POST /v1/feed` for `php -S`, with $FEED_ENTRIES entries in five conversations, a third of them `user.offline`. The
// scripts of the PHP server share nothing, so an entry is computed from its number.

declare(strict_types=1);

$total = (int) getenv('FEED_ENTRIES');
$request = json_decode((string) file_get_contents('php://input'), true);
header('content-type: application/json');

$after = match (true) {
    $request['after'] === '0' => 0,
    $request['after'] === 'now' => $total,
    preg_match('/^e1-(\d+)$/D', $request['after'], $found) === 1 && $found[1] <= $total => (int) $found[1],
    default => null,
};
if ($after === null) {
    http_response_code(400);
    $ends = ['oldest' => 'e1-0', 'newest' => "e1-$total"];
    echo json_encode(['code' => 'bad_cursor', 'detail' => 'another epoch', 'retryable' => false] + $ends);
    return;
}
$entries = [];
for ($number = $after + 1; $number <= $total && count($entries) < $request['limit']; $number++) {
    $type = $number % 3 === 0 ? 'user.offline' : 'message';
    if (in_array($type, $request['types'] ?? [$type], true)) {
        $event = ['type' => 'message', 'conversation' => '#' . $number % 5, 'seq' => intdiv($number, 5) + 1];
        $entries[] = ['id' => "e1-$number", 'type' => $type, 'at' => '2026-11-24T17:54:04.010Z']
            + ($type === 'message' ? ['via' => 'shop', 'event' => $event] : ['user' => "usr_$number"]);
    }
}
$next = $number - 1;
echo json_encode(['type' => 'ok', 'entries' => $entries, 'next' => "e1-$next", 'more' => $next < $total]);
