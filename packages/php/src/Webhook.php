<?php

declare(strict_types=1);

namespace Switchboard;

use Switchboard\Exception\BadSignature;

/** Signatures of webhooks and hooks, as Standard Webhooks (standardwebhooks.com) describe them. */
final class Webhook
{
    /** How far a request's time may be from now, in seconds. */
    public const TOLERANCE = 300;

    /**
     * Verifies a request and returns its decoded body.
     *
     * @param string|list<string> $secrets `whsec_…`; several while one replaces another
     * @param string $body the body as it came, byte for byte
     * @param iterable<string, mixed> $headers `$_SERVER`, or a framework's headers: names in any case, values that are
     *     strings or lists of strings
     * @return array<string, mixed> `type`, `timestamp` and `data`
     * @throws BadSignature
     */
    public static function verify(
        #[\SensitiveParameter] string|array $secrets,
        string $body,
        iterable $headers,
        int $tolerance = self::TOLERANCE,
        ?int $now = null,
    ): array {
        [$id, $time, $signatures] = self::headers($headers);
        if (preg_match('/^\d{1,15}$/D', $time) !== 1 || abs(($now ?? time()) - (int) $time) > $tolerance) {
            throw new BadSignature('the time of the request is too far from now; is a clock wrong?');
        }
        // Every signature is compared with every secret, so that the duration says nothing about them.
        $good = false;
        foreach ((array) $secrets as $secret) {
            $expected = self::sign($secret, $id, (int) $time, $body);
            foreach (explode(' ', $signatures) as $signature) {
                $good = hash_equals($expected, $signature) || $good;
            }
        }
        if (!$good) {
            throw new BadSignature('no signature of the request is made with this secret');
        }
        $payload = json_decode($body, true);
        if (!is_array($payload) || !is_string($payload['type'] ?? null)) {
            throw new BadSignature('the request is signed, but it is no webhook');
        }
        return $payload;
    }

    /** The value of `webhook-signature`, for tests of an application. */
    public static function sign(
        #[\SensitiveParameter] string $secret,
        string $id,
        int $timestamp,
        string $body,
    ): string {
        $key = base64_decode(preg_replace('/^whsec_/', '', trim($secret)), true);
        if ($key === false || $key === '') {
            throw new \InvalidArgumentException('a secret is `whsec_` and base64');
        }
        return 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
    }

    /**
     * @param iterable<string, mixed> $headers
     * @return list<string> the values of `webhook-id`, `webhook-timestamp` and `webhook-signature`
     */
    private static function headers(iterable $headers): array
    {
        $found = ['webhook-id' => '', 'webhook-timestamp' => '', 'webhook-signature' => ''];
        foreach ($headers as $name => $value) {
            // In $_SERVER `webhook-id` is HTTP_WEBHOOK_ID.
            $name = preg_replace('/^http-/', '', strtr(strtolower((string) $name), '_', '-'));
            if (isset($found[$name])) {
                $found[$name] = (string) (is_array($value) ? reset($value) : $value);
            }
        }
        if (in_array('', $found, true)) {
            throw new BadSignature('the request has no ' . array_search('', $found, true));
        }
        return array_values($found);
    }
}
