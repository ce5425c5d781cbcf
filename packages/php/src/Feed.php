<?php

declare(strict_types=1);

namespace Switchboard;

use Switchboard\Exception\ChatException;

/**
 * Everything that was committed, over all conversations, in one order. The key needs the scope `feed`.
 *
 *     $feed = new Feed($client, $store->load() ?? '0', fn (string $cursor) => $store->save($cursor));
 *     foreach ($feed as $entry) {
 *         …
 *     }
 *
 * An entry counts as handled when the loop asks for the next one: then its cursor is saved. A consumer that is killed
 * before that gets the entry again, with the same `id`. To handle nothing twice, save `$entry->id` as the cursor in the
 * transaction that handles the entry.
 *
 * @implements \IteratorAggregate<string, Entry>
 */
final class Feed implements \IteratorAggregate
{
    /** What a call may take beyond the time that the server waits for entries, in seconds. */
    private const MARGIN = 10.0;
    /** The first and the longest delay after a failure, in seconds. */
    private const BACKOFF = 0.2;
    private const MAX_BACKOFF = 20.0;

    private bool $stopped = false;

    /**
     * @param string $cursor where to begin: `0`, `now`, or what was saved
     * @param ?callable(string): void $save saves the cursor
     * @param list<string> $types only these types of entries; all if it is empty
     * @param int $limit the most entries of a call
     * @param int $wait milliseconds that the server waits for an entry
     * @param bool $follow whether to wait at the end of the feed; otherwise the loop ends there, as a cron job needs it
     */
    public function __construct(
        private readonly Client $client,
        private string $cursor,
        private $save = null,
        private readonly array $types = [],
        private readonly int $limit = 500,
        private readonly int $wait = 25_000,
        private readonly bool $follow = true,
    ) {
    }

    /** Up to where everything was handled. */
    public function cursor(): string
    {
        return $this->cursor;
    }

    /**
     * Ends the loop before the next entry, for example in a handler of SIGTERM. A call that waits for an entry ends
     * after `wait` at the latest.
     */
    public function stop(): void
    {
        $this->stopped = true;
    }

    /**
     * @return \Generator<string, Entry>
     * @throws ChatException if a retry cannot help
     */
    public function getIterator(): \Generator
    {
        $this->stopped = false;
        while (!$this->stopped) {
            $page = $this->page();
            if ($page === null) {
                return;
            }
            foreach ($page['entries'] as $data) {
                $entry = Entry::of($data);
                yield $entry->id => $entry;
                $this->advance($entry->id);
                if ($this->stopped) {
                    return;
                }
            }
            // Beyond the last entry, if `types` leaves out what follows it.
            $this->advance($page['next']);
            if (!$this->follow && !$page['more']) {
                return;
            }
        }
    }

    private function advance(string $cursor): void
    {
        if ($cursor !== $this->cursor) {
            $this->cursor = $cursor;
            if ($this->save !== null) {
                ($this->save)($cursor);
            }
        }
    }

    /**
     * The next page, however long the server is away; null if the loop was stopped meanwhile.
     *
     * @return ?array<string, mixed>
     */
    private function page(): ?array
    {
        $wait = $this->follow ? $this->wait : 0;
        $fields = ['after' => $this->cursor, 'limit' => $this->limit, 'wait' => $wait];
        $fields += ['types' => $this->types === [] ? null : array_values($this->types)];
        $client = $this->client->within($wait / 1_000 + self::MARGIN);
        for ($pause = self::BACKOFF; !$this->stopped; $pause = min($pause * 2, self::MAX_BACKOFF)) {
            try {
                return $client->command('feed', $fields);
            } catch (ChatException $failure) {
                if (!$failure->retryable || !$this->follow) {
                    throw $failure;
                }
                usleep((int) (($failure->retryAfter ?? $pause * random_int(500, 1_000)) * 1_000));
            }
        }
        return null;
    }
}
