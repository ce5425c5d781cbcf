<?php
// A client for back ends in PHP: two functions, no library.

declare(strict_types=1);

/** A token with which $user may connect for an hour: a JWT (RFC 7519), signed with the server's secret by HS256. */
function chat_token(string $user, string $secret, int $seconds = 3600): string
{
    $encode = fn (string $bytes): string => rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
    $signed = $encode(json_encode(['alg' => 'HS256', 'typ' => 'JWT']))
        . '.' . $encode(json_encode(['sub' => $user, 'iat' => time(), 'exp' => time() + $seconds]));
    return $signed . '.' . $encode(hash_hmac('sha256', $signed, $secret, true));
}

/**
 * Runs a command as the user $as, with an API key. With an idempotency key $once a `send` can be retried: it is stored
 * once. For `revoke`, which acts for no user, $as is ''.
 *
 * @return array<string, mixed> the server's answer
 */
function chat_command(string $server, string $key, string $as, string $command, array $fields, string $once = ''): array
{
    $headers = ["authorization: Bearer $key", 'content-type: application/json'];
    if ($once !== '') {
        $headers[] = "idempotency-key: $once";
    }
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => $headers,
        // Throws for invalid UTF-8. An empty array is `[]` in JSON: for an empty object write (object) [].
        'content' => json_encode((object) (($as === '' ? [] : ['as' => $as]) + $fields), JSON_THROW_ON_ERROR),
        'ignore_errors' => true,
        'timeout' => 10,
    ]]);
    $answer = @file_get_contents("$server/v1/$command", false, $context);
    $said = $answer === false ? null : json_decode($answer, true);
    if (!is_array($said) || ($said['type'] ?? '') !== 'ok') {
        throw new RuntimeException("$command: " . ($said['detail'] ?? 'the chat server does not answer'));
    }
    return $said;
}
