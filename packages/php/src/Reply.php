<?php

declare(strict_types=1);

namespace Switchboard;

/** The HTTP response to a webhook or a hook's request, for any framework. */
final class Reply
{
    /** @param array<string, string> $headers */
    public function __construct(
        public readonly int $status,
        public readonly string $body = '',
        public readonly array $headers = ['content-type' => 'application/json'],
    ) {
    }

    /** Sends the response, where no framework does. */
    public function send(): void
    {
        http_response_code($this->status);
        foreach ($this->headers as $name => $value) {
            header("$name: $value");
        }
        echo $this->body;
    }
}
