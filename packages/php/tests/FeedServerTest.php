<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Exception\BadCursor;
use Switchboard\Feed;
use Switchboard\Tests\Support\Directory;
use Switchboard\Tests\Support\Process;
use Switchboard\Tests\Support\Server;

/** The iterator over the feed of the real server. */
final class FeedServerTest extends TestCase
{
    private const MESSAGES = 300;
    private static Server $server;

    public static function setUpBeforeClass(): void
    {
        self::$server = new Server();
        $rooms = ['one', 'two', 'three'];
        array_map(fn (string $room) => self::$server->client()->room($room)->create(), $rooms);
        for ($number = 0; $number < self::MESSAGES; $number++) {
            self::$server->client()->send('#' . $rooms[$number % 3], "message $number");
        }
    }

    public function testEachEventComesOnceAndInTheOrderOfItsLog(): void
    {
        $seqs = [];
        $feed = new Feed(self::$server->client(), '0', types: ['create', 'message'], limit: 50, follow: false);
        foreach ($feed as $entry) {
            self::assertSame('shop', $entry->via);
            $seqs[$entry->event['conversation']][] = $entry->event['seq'];
        }
        $each = range(1, intdiv(self::MESSAGES, 3) + 1);
        self::assertSame(['#one' => $each, '#two' => $each, '#three' => $each], $seqs);
    }

    public function testALoopThatFollowsHearsWhatIsWrittenMeanwhile(): void
    {
        self::$server->client('writer')->send('@reader', 'before');
        $heard = [];
        $feed = new Feed(self::$server->client(), '0', types: ['message']);
        foreach ($feed as $entry) {
            if ($entry->event['conversation'] !== '@reader:writer') {
                continue;
            }
            $heard[] = $entry->event['text'];
            $next = ['before' => 'first', 'first' => 'second'][$entry->event['text']] ?? null;
            $next === null ? $feed->stop() : self::$server->client('writer')->send('@reader', $next);
        }
        self::assertSame(['before', 'first', 'second'], $heard);
    }

    public function testACursorOfAnotherFeedIsRefusedWithTheEnds(): void
    {
        try {
            iterator_to_array(new Feed(self::$server->client(), '00000000-1', follow: false));
            self::fail('it was taken');
        } catch (BadCursor $failure) {
            self::assertNotEmpty($failure->details['oldest']);
            $feed = new Feed(self::$server->client(), $failure->details['newest'], follow: false);
            self::assertSame([], iterator_to_array($feed));
        }
    }

    public function testAConsumerThatIsKilledAtAnyPlaceMissesNothing(): void
    {
        $directory = new Directory();
        mt_srand(17);
        $script = [PHP_BINARY, __DIR__ . '/Support/consumer.php', self::$server->url, self::$server->key];
        do {
            $saved = mt_rand(0, 1) === 1 ? 'saved' : 'unsaved';
            $consumer = new Process([...$script, $directory->path, (string) mt_rand(1, 25), $saved]);
        } while ($consumer->ended() === SIGKILL);
        $lines = file("$directory->path/entries", FILE_IGNORE_NEW_LINES);
        $ids = array_keys(iterator_to_array(new Feed(self::$server->client(), '0', follow: false)));
        $received = array_map(static fn (string $line): string => explode(' ', $line)[0], $lines);
        self::assertSame($ids, array_values(array_unique($received)), 'each, in order');
        self::assertGreaterThan(count($ids), count($received), 'some came twice');
    }
}
