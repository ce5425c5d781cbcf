<?php

// A server whose answers a test decides. The first argument is a JSON list of answers, one for each request:
// {"status", "headers", "body"}, {"close": true} or {"hang": true}. Further requests go on to the server that the
// second argument names. It prints a line of JSON for each request. Connections are served one after another.

declare(strict_types=1);

[, $script, $target] = $argv + [2 => ''];
$answers = json_decode($script, true, 512, JSON_THROW_ON_ERROR);
$listener = stream_socket_server('tcp://127.0.0.1:0');
echo 'listening on http://', stream_socket_get_name($listener, false), "\n";

/** @return ?array{string, string, string} the request line, the authorization and the body */
$request = static function (mixed $connection): ?array {
    [$line, $length, $authorization] = [fgets($connection), 0, ''];
    if ($line === false) {
        return null;
    }
    while (($header = trim((string) fgets($connection))) !== '') {
        [$name, $value] = explode(':', $header, 2);
        match (strtolower($name)) {
            'content-length' => $length = (int) $value,
            'authorization' => $authorization = trim($value),
            default => null,
        };
    }
    return [trim($line), $authorization, $length > 0 ? (string) stream_get_contents($connection, $length) : ''];
};

/** @return array{status: int, body: string} */
$forward = static function (string $url, string $authorization, string $body): array {
    $headers = ["authorization: $authorization", 'content-type: application/json'];
    $options = ['method' => 'POST', 'header' => $headers, 'content' => $body, 'ignore_errors' => true];
    $answer = (string) file_get_contents($url, false, stream_context_create(['http' => $options]));
    return ['status' => (int) explode(' ', $http_response_header[0])[1], 'body' => $answer];
};

for ($number = 1; $connection = stream_socket_accept($listener, -1); $number++) {
    while (($received = $request($connection)) !== null) {
        [$line, $authorization, $body] = $received;
        $path = explode(' ', $line)[1];
        echo json_encode(['connection' => $number, 'path' => $path, 'body' => json_decode($body, true)]), "\n";
        $answer = array_shift($answers) ?? $forward($target . $path, $authorization, $body);
        if ($answer['hang'] ?? false) {
            // Until the client gives up.
            fgets($connection);
        }
        if (($answer['hang'] ?? false) || ($answer['close'] ?? false)) {
            break;
        }
        $head = "HTTP/1.1 {$answer['status']} X\r\ncontent-length: " . strlen($answer['body']) . "\r\n";
        foreach ($answer['headers'] ?? [] as $name => $value) {
            $head .= "$name: $value\r\n";
        }
        fwrite($connection, "$head\r\n{$answer['body']}");
    }
    fclose($connection);
}
