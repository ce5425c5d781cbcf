<?php

declare(strict_types=1);

namespace Switchboard;

/** An entry of the feed, by a webhook or by {@see Feed}. Its `id` is the same each time that it is delivered. */
final class Entry
{
    /**
     * @param string $id a cursor of the feed: entries after it come next
     * @param string $type the type of an event, or with a dot what is no event: `user.offline`, …
     * @param ?string $via what made the change: a key, `hook`, …
     * @param ?array<string, mixed> $event the event, as in docs/protocol.md
     * @param array<string, mixed> $data the whole entry
     */
    private function __construct(
        public readonly string $id,
        public readonly string $type,
        public readonly ?string $at,
        public readonly ?string $via,
        public readonly ?array $event,
        public readonly array $data,
    ) {
    }

    /** @param array<string, mixed> $data */
    public static function of(array $data): self
    {
        return new self(
            (string) ($data['id'] ?? ''),
            (string) ($data['type'] ?? ''),
            $data['at'] ?? null,
            $data['via'] ?? null,
            $data['event'] ?? null,
            $data,
        );
    }

    /** The user whom an entry that is no event is about. */
    public function user(): ?string
    {
        return $this->data['user'] ?? null;
    }
}
