<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Client;
use Switchboard\Exception;
use Switchboard\Tests\Support\Scripted;
use Switchboard\Tests\Support\Server;

/** Failures that pass, and those that do not. */
final class RetryTest extends TestCase
{
    private static Server $server;

    public static function setUpBeforeClass(): void
    {
        self::$server = new Server();
    }

    public function testWhatMayPassIsTriedAgainWithTheSameKey(): void
    {
        $front = new Scripted([
            ['status' => 502, 'body' => '<h1>Bad gateway</h1>'],
            ['close' => true],
            Scripted::problem(429, 'rate_limited', true, ['retry_after' => 1]),
        ], self::$server->url);
        $shop = new Client($front->url, self::$server->key, 'shop');
        self::assertSame(1, $shop->send('@alice', 'once')->seq);
        $keys = array_map(fn () => $front->request()['body']['key'], range(1, 4));
        self::assertCount(1, array_unique($keys));
    }

    public function testARoomWithoutANameIsCreatedOnce(): void
    {
        $front = new Scripted([['close' => true]], self::$server->url);
        $room = (new Client($front->url, self::$server->key, 'shop'))->create(title: 'Nameless');
        $names = [$front->request()['body']['room'], $front->request()['body']['room']];
        self::assertSame(["#$names[0]", $names[0]], [$room->conversation, $names[1]]);
    }

    public function testARefusalIsFinal(): void
    {
        $front = new Scripted([Scripted::problem(422, 'refused', false)], self::$server->url);
        try {
            (new Client($front->url, self::$server->key, 'shop'))->send('@alice', 'once');
            self::fail('it was stored');
        } catch (Exception\Refused $failure) {
            self::assertSame(['it is refused', 422, 'r-17'], [
                $failure->getMessage(), $failure->status, $failure->requestId,
            ]);
        }
    }

    public function testAnUnknownCodeGoesByRetryable(): void
    {
        $new = Scripted::problem(409, 'of_tomorrow', true, ['retry_after' => 1]);
        $front = new Scripted([$new, Scripted::problem(409, 'of_tomorrow', false)], self::$server->url);
        try {
            (new Client($front->url, self::$server->key, 'shop'))->ping();
            self::fail('it was answered');
        } catch (Exception\ChatException $failure) {
            self::assertSame(['of_tomorrow', false], [$failure->errorCode, $failure->retryable]);
            self::assertSame(Exception\ChatException::class, $failure::class);
        }
    }

    public function testAServerThatHangsEndsTheCallInTime(): void
    {
        $front = new Scripted([['hang' => true]]);
        $begin = hrtime(true);
        try {
            (new Client($front->url, 'sbk_1', 'shop', timeout: 0.2))->ping();
            self::fail('it was answered');
        } catch (Exception\TimedOut $failure) {
            self::assertTrue($failure->retryable);
            self::assertLessThan(5.0, (hrtime(true) - $begin) / 1e9);
        }
    }

    public function testALongWaitEndsTheCallAtOnce(): void
    {
        $front = new Scripted([Scripted::problem(429, 'rate_limited', true, ['retry_after' => 60_000])]);
        try {
            (new Client($front->url, 'sbk_1', 'shop'))->ping();
            self::fail('it was answered');
        } catch (Exception\RateLimited $failure) {
            self::assertSame(60_000, $failure->retryAfter);
        }
    }

    public function testWithoutAServerTheClientIsOffline(): void
    {
        $this->expectException(Exception\Offline::class);
        (new Client('http://127.0.0.1:1', 'sbk_1', 'shop', timeout: 0.1))->ping();
    }

    public function testARedirectIsNotFollowed(): void
    {
        $front = new Scripted([['status' => 302, 'headers' => ['location' => '/elsewhere'], 'body' => '']]);
        $this->expectException(Exception\ChatException::class);
        $this->expectExceptionMessage('HTTP 302');
        (new Client($front->url, 'sbk_1', 'shop'))->ping();
    }

    public function testOneConnectionServesManyCalls(): void
    {
        $front = new Scripted([], self::$server->url);
        $shop = new Client($front->url, self::$server->key, 'shop');
        $shop->ping();
        $shop->as('alice')->conversations();
        $shop->room('reuse')->create();
        $used = array_map(fn () => $front->request()['connection'], range(1, 3));
        self::assertSame([1, 1, 1], $used);
    }

    public function testAMessageSurvivesARestart(): void
    {
        $server = new Server();
        $shop = $server->client(timeout: 30.0);
        $shop->send('@alice', 'first', key: '1');
        $server->kill();
        $child = pcntl_fork();
        if ($child === 0) {
            // The child sends while no server is there; its connection is not the parent's.
            $stored = $shop->send('@alice', 'second', key: '2');
            posix_kill(getmypid(), $stored->seq === 2 ? SIGKILL : SIGTERM);
        }
        $server->restart();
        pcntl_waitpid($child, $status);
        self::assertSame(SIGKILL, pcntl_wtermsig($status));
        self::assertSame(['first', 'second'], array_column($shop->history('@alice')->items, 'text'));
    }
}
