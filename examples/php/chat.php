<?php
// What a back end in PHP needs of Switchboard: two functions, no library.

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
 * Says a command as $as, with an API key. With an idempotency key a repeated `send` stores nothing twice, so whoever is
 * not sure whether it arrived says it again. `revoke` is of no user: its $as is ''.
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
        // What is not UTF-8 throws here, with the reason. An empty array is `[]` in JSON: for an empty object write (object) [].
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
