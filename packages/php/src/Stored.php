<?php

declare(strict_types=1);

namespace Switchboard;

/** The answer to a command that stores an event: the event is on stable storage. */
final class Stored
{
    /**
     * @param ?int $seq the event's number in its conversation, null while the message is held
     * @param ?string $at when it was stored, in RFC 3339, null while the message is held
     * @param bool $duplicate whether it had been stored before, for the same key; `seq` is that of the first one
     * @param bool $held whether the message waits, outside the log, for the application's decision
     * @param ?array<string, mixed> $event the stored event, if the application changed the message
     */
    public function __construct(
        public readonly string $conversation,
        public readonly ?int $seq,
        public readonly ?string $at,
        public readonly bool $duplicate = false,
        public readonly bool $held = false,
        public readonly ?array $event = null,
    ) {
    }

    /** @param array<string, mixed> $answer */
    public static function of(array $answer): self
    {
        return new self(
            $answer['conversation'],
            $answer['seq'] ?? null,
            $answer['at'] ?? null,
            $answer['duplicate'] ?? false,
            $answer['held'] ?? false,
            $answer['event'] ?? null,
        );
    }
}
