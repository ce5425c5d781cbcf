<?php

declare(strict_types=1);

namespace Switchboard;

/** A question of the server before it stores something, or lets a user connect. */
final class Ask
{
    /**
     * @param string $type what is asked about: `open`, `message`, …
     * @param ?string $conversation null for `open`
     * @param array<string, mixed> $message the message, with `text`, `data`, `key`
     * @param array<string, mixed> $claims the claims of the user's token
     * @param array<string, mixed> $data the whole question
     */
    private function __construct(
        public readonly string $type,
        public readonly string $user,
        public readonly ?string $conversation,
        public readonly array $message,
        public readonly array $claims,
        public readonly ?string $address,
        public readonly array $data,
    ) {
    }

    /** @param array<string, mixed> $data */
    public static function of(string $type, array $data): self
    {
        return new self(
            $type,
            (string) ($data['user'] ?? ''),
            $data['conversation'] ?? null,
            $data['message'] ?? [],
            $data['claims'] ?? [],
            $data['address'] ?? null,
            $data,
        );
    }
}
