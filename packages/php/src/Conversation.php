<?php

declare(strict_types=1);

namespace Switchboard;

/** A room or a direct conversation, as the client's user sees it. */
class Conversation
{
    public function __construct(protected readonly Client $client, public readonly string $id)
    {
    }

    /**
     * @param array<string, mixed>|object|null $data
     * @see Client::send()
     */
    public function send(
        ?string $text = null,
        array|object|null $data = null,
        ?string $key = null,
        ?int $replyTo = null,
    ): Stored {
        return $this->client->send($this->id, $text, $data, $key, $replyTo);
    }

    /** @param array<string, mixed>|object|null $data */
    public function edit(int $target, ?string $text = null, array|object|null $data = null): Stored
    {
        return $this->client->edit($this->id, $target, $text, $data);
    }

    public function delete(int $target): Stored
    {
        return $this->client->delete($this->id, $target);
    }

    public function react(int $target, string $emoji, bool $on = true): Stored
    {
        return $this->client->react($this->id, $target, $emoji, $on);
    }

    public function read(int $upto): int
    {
        return $this->client->read($this->id, $upto);
    }

    public function typing(): void
    {
        $this->client->typing($this->id);
    }

    /** The latest messages, oldest first, or those before a `seq`. */
    public function history(?int $before = null, ?int $limit = null): Page
    {
        return $this->client->history($this->id, $before, null, $limit);
    }

    /**
     * All messages in their current state, newest first; pages are loaded as they are needed.
     *
     * @return \Generator<int, array<string, mixed>>
     */
    public function messages(): \Generator
    {
        $before = null;
        do {
            $page = $this->history($before);
            foreach (array_reverse($page->items) as $message) {
                yield $message['seq'] => $message;
                $before = $message['seq'];
            }
        } while ($page->more);
    }

    /**
     * The events of the log after a number, oldest first; pages are loaded as they are needed.
     *
     * @return \Generator<int, array<string, mixed>>
     */
    public function events(int $after = 0): \Generator
    {
        do {
            $page = $this->client->sync($this->id, $after);
            foreach ($page as $event) {
                yield $event['seq'] => $event;
                $after = $event['seq'];
            }
        } while ($page->more);
    }

    /**
     * All members, by id.
     *
     * @return \Generator<string, array<string, mixed>>
     */
    public function members(): \Generator
    {
        $after = null;
        do {
            $page = $this->client->members($this->id, $after);
            foreach ($page as $member) {
                yield $member['user'] => $member;
                $after = $member['user'];
            }
        } while ($page->more);
    }
}
