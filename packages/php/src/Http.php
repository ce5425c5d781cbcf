<?php

declare(strict_types=1);

namespace Switchboard;

use Switchboard\Exception\Offline;
use Switchboard\Exception\TimedOut;

/**
 * POST requests over one connection that is kept open between them.
 *
 * @internal
 */
final class Http
{
    /** The largest answer that is read, in bytes: a page of the server has about 1 MiB. */
    private const MAX_ANSWER = 67_108_864;

    private ?\CurlHandle $handle = null;
    /** The process that opened the connection: after a fork, two processes must not share it. */
    private int $process = 0;

    public function __construct(private readonly float $connectTimeout)
    {
    }

    /**
     * @param list<string> $headers
     * @return array{int, array<string, string>, string} the status, the headers with names in lower case, and the body
     * @throws Offline|TimedOut
     */
    public function post(string $url, array $headers, string $body, float $timeout): array
    {
        $handle = $this->handle();
        $milliseconds = max(1, (int) ceil($timeout * 1_000));
        $received = [];
        $answer = '';
        curl_setopt_array($handle, [
            CURLOPT_URL => $url,
            CURLOPT_HTTPHEADER => $headers,
            CURLOPT_POSTFIELDS => $body,
            CURLOPT_TIMEOUT_MS => $milliseconds,
            CURLOPT_CONNECTTIMEOUT_MS => min($milliseconds, max(1, (int) ceil($this->connectTimeout * 1_000))),
            CURLOPT_HEADERFUNCTION => static function ($handle, string $line) use (&$received): int {
                [$name, $value] = explode(':', $line, 2) + [1 => ''];
                $received[strtolower(trim($name))] = trim($value);
                return strlen($line);
            },
            CURLOPT_WRITEFUNCTION => static function ($handle, string $part) use (&$answer): int {
                if (strlen($answer) + strlen($part) > self::MAX_ANSWER) {
                    return -1;
                }
                $answer .= $part;
                return strlen($part);
            },
        ]);
        if (curl_exec($handle) === false) {
            $reason = curl_error($handle);
            throw curl_errno($handle) === CURLE_OPERATION_TIMEOUTED
                ? new TimedOut("no answer in time: $reason", 'timed_out', true)
                : new Offline("the server cannot be reached: $reason", 'offline', true);
        }
        return [(int) curl_getinfo($handle, CURLINFO_RESPONSE_CODE), $received, $answer];
    }

    private function handle(): \CurlHandle
    {
        if ($this->handle === null || $this->process !== getmypid()) {
            $this->process = getmypid();
            $this->handle = curl_init();
            curl_setopt_array($this->handle, [
                CURLOPT_POST => true,
                CURLOPT_FOLLOWLOCATION => false,
                CURLOPT_PROTOCOLS => CURLPROTO_HTTP | CURLPROTO_HTTPS,
                // Without a signal for the resolver's time-out, which would disturb the application's own signals.
                CURLOPT_NOSIGNAL => true,
                CURLOPT_TCP_KEEPALIVE => 1,
            ]);
        }
        return $this->handle;
    }
}
