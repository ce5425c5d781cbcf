<?php

declare(strict_types=1);

namespace Switchboard\Tests\Support;

/** A server whose answers a test decides; see `scripted.php`. */
final class Scripted
{
    public readonly string $url;
    private readonly Process $process;

    /** @param list<array<string, mixed>> $answers */
    public function __construct(array $answers, string $target = '')
    {
        $script = json_encode($answers, JSON_THROW_ON_ERROR);
        $this->process = new Process([PHP_BINARY, __DIR__ . '/scripted.php', $script, $target]);
        $this->url = $this->process->line('#listening on (\S+)#')[1];
    }

    /**
     * A problem document as the server sends it.
     *
     * @param array<string, mixed> $fields
     * @return array<string, mixed>
     */
    public static function problem(int $status, string $code, bool $retryable, array $fields = []): array
    {
        $body = ['code' => $code, 'detail' => "it is $code", 'retryable' => $retryable] + $fields;
        return ['status' => $status, 'headers' => ['x-request-id' => 'r-17'], 'body' => json_encode($body)];
    }

    /**
     * The next request.
     *
     * @return array{connection: int, path: string, body: array<string, mixed>}
     */
    public function request(): array
    {
        return json_decode($this->process->line('/^\{.*/')[0], true);
    }
}
