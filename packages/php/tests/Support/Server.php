<?php

declare(strict_types=1);

namespace Switchboard\Tests\Support;

use Switchboard\Client;

/** The real server, on a data directory of its own. */
final class Server
{
    public const SECRET = 'a secret of the tests that is long enough';

    public readonly string $url;
    public readonly string $key;
    private readonly Directory $data;
    private Process $process;

    /** @param array<string, string> $env settings, as `SWITCHBOARD_AUTH_ISSUER` */
    public function __construct(private readonly array $env = ['SWITCHBOARD_AUTH_SECRET' => self::SECRET])
    {
        $this->data = new Directory();
        $this->url = $this->start('127.0.0.1:0');
        preg_match('/sbk_\S+/', $this->cli('key', 'create', 'shop', '--scope', 'act,feed,moderate'), $found);
        $this->key = $found[0];
    }

    /** A client with a key that may do everything. */
    public function admin(): Client
    {
        preg_match('/sbk_\S+/', $this->cli('key', 'create', 'admin', '--scope', 'admin'), $found);
        return new Client($this->url, $found[0], 'shop');
    }

    public function client(string $as = 'shop', float $timeout = 10.0): Client
    {
        return new Client($this->url, $this->key, $as, $timeout);
    }

    public function cli(string ...$arguments): string
    {
        return Process::run([self::binary(), ...$arguments, '--data', $this->data->path], $this->env);
    }

    /** Kills the server, as a power failure would. */
    public function kill(): void
    {
        $this->process->kill();
    }

    /** Starts the server again, at the same address. */
    public function restart(): void
    {
        $this->start(substr($this->url, strlen('http://')));
    }

    private function start(string $address): string
    {
        $command = [self::binary(), 'serve', '--listen', $address, '--data', $this->data->path];
        $this->process = new Process($command, $this->env);
        return $this->process->line('#listening on (http://127\.0\.0\.1:\d+)#')[1];
    }

    private static function binary(): string
    {
        return getenv('SWITCHBOARD_BINARY') ?: __DIR__ . '/../../../../target/debug/switchboard';
    }
}
