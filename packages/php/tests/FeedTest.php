<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Client;
use Switchboard\Exception\BadCursor;
use Switchboard\Exception\Unauthorized;
use Switchboard\Feed;
use Switchboard\Tests\Support\Directory;
use Switchboard\Tests\Support\Process;
use Switchboard\Tests\Support\Scripted;

/** The iterator over a feed that a script answers. */
final class FeedTest extends TestCase
{
    private const ENTRIES = 500;
    private static Process $process;
    private static string $url;

    public static function setUpBeforeClass(): void
    {
        $command = [PHP_BINARY, '-S', '127.0.0.1:0', __DIR__ . '/Support/feed.php'];
        self::$process = new Process($command, ['FEED_ENTRIES' => (string) self::ENTRIES]);
        self::$url = self::$process->line('#\((http://\S+)\) started#')[1];
    }

    public function testEachEntryComesOnceAndInOrder(): void
    {
        $entries = iterator_to_array($this->feed('0'));
        $ids = array_map(static fn (int $number): string => "e1-$number", range(1, self::ENTRIES));
        self::assertSame($ids, array_keys($entries));
        self::assertSame(['message', 'shop', 1], [
            $entries['e1-1']->type, $entries['e1-1']->via, $entries['e1-1']->event['seq'],
        ]);
        self::assertSame(['user.offline', 'usr_3', null], [
            $entries['e1-3']->type, $entries['e1-3']->user(), $entries['e1-3']->event,
        ]);
    }

    public function testTheCursorFollowsWhatTheLoopHasHandled(): void
    {
        $saved = [];
        $feed = $this->feed('e1-490', function (string $cursor) use (&$saved): void {
            $saved[] = $cursor;
        });
        foreach ($feed as $id => $entry) {
            if ($id === 'e1-493') {
                break;
            }
        }
        self::assertSame(['e1-491', 'e1-492'], $saved);
        self::assertSame('e1-492', $feed->cursor());
        // The next loop begins with the entry that was not handled.
        self::assertSame('e1-493', $feed->getIterator()->key());
    }

    public function testTypesThatAreLeftOutMoveTheCursorToo(): void
    {
        $feed = $this->feed('e1-494', types: ['user.offline']);
        self::assertSame(['e1-495', 'e1-498'], array_keys(iterator_to_array($feed)));
        self::assertSame('e1-500', $feed->cursor());
    }

    public function testALoopThatFollowsEndsWhenItIsStopped(): void
    {
        $feed = new Feed(new Client(self::$url, 'sbk_1'), 'e1-495', types: ['message'], wait: 0);
        $seen = [];
        foreach ($feed as $id => $entry) {
            $seen[] = $id;
            if ($id === 'e1-500') {
                $feed->stop();
            }
        }
        self::assertSame(['e1-496', 'e1-497', 'e1-499', 'e1-500'], $seen);
        self::assertSame('e1-500', $feed->cursor());
    }

    public function testACursorOfAnotherEpochIsRefusedWithTheEnds(): void
    {
        try {
            iterator_to_array($this->feed('e0-17'));
            self::fail('it was taken');
        } catch (BadCursor $failure) {
            self::assertSame(['e1-0', 'e1-500'], [$failure->details['oldest'], $failure->details['newest']]);
        }
    }

    public function testAFeedThatFollowsOutlastsARestartOfTheServer(): void
    {
        $soon = ['retry_after' => 1];
        $page = ['type' => 'ok', 'entries' => [['id' => 'e1-1', 'type' => 'message']]];
        $page += ['next' => 'e1-1', 'more' => false];
        $front = new Scripted([
            ['close' => true],
            Scripted::problem(503, 'unavailable', true, $soon),
            ['status' => 200, 'body' => json_encode($page)],
            Scripted::problem(401, 'unauthorized', false),
        ]);
        $seen = [];
        try {
            // The connection breaks, the server is not ready, and at last the key is revoked.
            foreach (new Feed(new Client($front->url, 'sbk_1', 'shop'), '0') as $id => $entry) {
                $seen[] = $id;
            }
        } catch (Unauthorized) {
            self::assertSame(['e1-1'], $seen);
        }
        $asked = array_map(fn () => $front->request()['body'], range(1, 4));
        $first = ['after' => '0', 'limit' => 500, 'wait' => 25_000];
        self::assertSame([$first, $first, $first, ['after' => 'e1-1'] + $first], $asked);
    }

    public function testAConsumerThatIsKilledAtAnyPlaceMissesNothing(): void
    {
        $directory = new Directory();
        mt_srand(17);
        for ($kills = 0; $kills < 40; $kills++) {
            $signal = $this->consume($directory->path, mt_rand(1, 12), mt_rand(0, 1) === 1);
            self::assertSame(SIGKILL, $signal);
        }
        self::assertSame(0, $this->consume($directory->path, PHP_INT_MAX, true));
        $numbers = array_map(
            static fn (string $line): int => (int) substr($line, 3),
            file("$directory->path/entries", FILE_IGNORE_NEW_LINES),
        );
        $repeated = 0;
        foreach ($numbers as $index => $number) {
            $before = $numbers[$index - 1] ?? 0;
            self::assertContains($number, [$before, $before + 1], 'in order, and only the last one again');
            $repeated += $number === $before ? 1 : 0;
        }
        self::assertSame(self::ENTRIES, end($numbers));
        self::assertGreaterThan(5, $repeated, 'some consumers were killed before they saved');
        self::assertLessThan(40, $repeated, 'and some after it');
    }

    private function consume(string $directory, int $entries, bool $saved): int
    {
        $script = [PHP_BINARY, __DIR__ . '/Support/consumer.php', self::$url, 'sbk_1', $directory];
        return (new Process([...$script, (string) $entries, $saved ? 'saved' : 'unsaved']))->ended();
    }

    /** @param list<string> $types */
    private function feed(string $cursor, ?callable $save = null, array $types = []): Feed
    {
        return new Feed(new Client(self::$url, 'sbk_1'), $cursor, $save, $types, limit: 30, follow: false);
    }
}
