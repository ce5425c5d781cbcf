<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Client;
use Switchboard\Exception;
use Switchboard\Tests\Support\Directory;
use Switchboard\Tests\Support\Process;
use Switchboard\Tests\Support\Scripted;
use Switchboard\Tests\Support\Server;

/** The calls about webhooks, and the requests of the real server to a handler. */
final class WebhookCallsTest extends TestCase
{
    private Directory $directory;
    private Server $server;
    private Client $admin;

    protected function setUp(): void
    {
        $this->directory = new Directory();
        file_put_contents("{$this->directory->path}/webhooks", str_repeat('secret', 8));
        $this->server = new Server([
            'SWITCHBOARD_AUTH_SECRET' => Server::SECRET,
            'SWITCHBOARD_WEBHOOKS_SECRET_FILE' => "{$this->directory->path}/webhooks",
            'SWITCHBOARD_WEBHOOKS_PRIVATE' => 'true',
        ]);
        $this->admin = $this->server->admin();
    }

    public function testAWebhookFromItsFirstEntryToItsEnd(): void
    {
        $secrets = "{$this->directory->path}/secrets";
        $command = [PHP_BINARY, '-S', '127.0.0.1:0', __DIR__ . '/Support/webhook.php'];
        $endpoint = new Process($command, ['HOOK_SECRETS' => $secrets]);
        $url = $endpoint->line('#\((http://\S+)\) started#')[1];
        $first = $this->admin->addWebhook('shop', $url, types: ['message'], headers: ['x-shop' => '7']);
        file_put_contents($secrets, "$first\n");
        self::assertSame(204, $this->admin->testWebhook('shop')['status']);
        self::assertSame('entry webhook.test -', $endpoint->line('/entry .*/')[0]);
        $this->admin->send('@alice', 'hello');
        self::assertSame('entry message hello', $endpoint->line('/entry .*/')[0]);
        $this->admin->pauseWebhook('shop');
        self::assertSame('by an operator', $this->described()['paused']);
        $second = $this->admin->rotateWebhook('shop', overlap: 60_000);
        self::assertNotSame($first, $second);
        file_put_contents($secrets, "$second\n");
        $this->admin->send('@alice', 'again');
        $this->admin->resumeWebhook('shop');
        self::assertSame('entry message again', $endpoint->line('/entry .*/')[0]);
        $this->admin->replayWebhook('shop', from: '0');
        self::assertSame('entry message hello', $endpoint->line('/entry .*/')[0]);
        $this->admin->replayWebhook('shop', parked: true);
        $webhook = $this->described();
        self::assertSame([$url, ['message'], ['x-shop'], []], [
            $webhook['url'], $webhook['types'], $webhook['headers'], $webhook['parked'],
        ]);
        $this->admin->removeWebhook('shop');
        self::assertSame([], $this->admin->listWebhooks());
        $this->expectException(Exception\NotFound::class);
        $this->admin->removeWebhook('shop');
    }

    public function testACallThatMakesASecretIsNotRepeated(): void
    {
        $front = new Scripted([['close' => true], ['status' => 502, 'body' => 'Bad gateway']], $this->server->url);
        $client = new Client($front->url, $this->server->key, 'shop');
        $add = fn () => $client->addWebhook('shop', 'https://shop.example');
        foreach ([$add, fn () => $client->rotateWebhook('shop')] as $call) {
            try {
                $call();
                self::fail('it was answered');
            } catch (Exception\ChatException $failure) {
                self::assertTrue($failure->retryable);
            }
        }
        $client->ping();
        $requests = array_map(fn () => $front->request(), range(1, 3));
        self::assertSame(['/v1/add_webhook', '/v1/rotate_webhook', '/v1/ping'], array_column($requests, 'path'));
        self::assertArrayNotHasKey('as', $requests[0]['body']);
        self::assertSame('shop', $requests[2]['body']['as']);
    }

    public function testAKeyWithoutTheScopeIsRefused(): void
    {
        try {
            $this->server->client()->listWebhooks();
            self::fail('it was answered');
        } catch (Exception\Forbidden $failure) {
            self::assertSame('admin', $failure->details['permission']);
        }
    }

    /** @return array<string, mixed> */
    private function described(): array
    {
        [$webhook] = $this->admin->listWebhooks();
        return $webhook;
    }
}
