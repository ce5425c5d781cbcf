<?php

declare(strict_types=1);

namespace Switchboard;

/** A user, for a client with an API key. */
final class User
{
    public function __construct(private readonly Client $client, public readonly string $id)
    {
    }

    /** A client that acts in this user's name. */
    public function client(): Client
    {
        return $this->client->as($this->id);
    }

    /** The direct conversation of the client's user with this one. */
    public function direct(): Conversation
    {
        return $this->client->conversation("@$this->id");
    }

    /**
     * Summaries of all conversations that this user is in, latest activity first.
     *
     * @return \Generator<string, array<string, mixed>>
     */
    public function conversations(): \Generator
    {
        $client = $this->client();
        $before = null;
        do {
            $page = $client->conversations($before);
            foreach ($page as $summary) {
                yield $summary['conversation'] => $summary;
                $before = $summary['conversation'];
            }
        } while ($page->more);
    }

    /** Logs the user out everywhere; see {@see Client::revoke()}. */
    public function revoke(bool $replace = false): void
    {
        $this->client->revoke($this->id, $replace);
    }
}
