<?php

declare(strict_types=1);

namespace Switchboard;

use Switchboard\Exception\BadSignature;

/**
 * The application's part in the chat: what happens when a user connects, writes, and goes away.
 *
 *     $chat = new Handlers(getenv('CHAT_HOOK_SECRET'));
 *     $chat->onMessage(fn (Ask $ask) => str_contains($ask->message['text'] ?? '', 'viagra')
 *         ? Answer::refuse('No advertisements here.')
 *         : null);
 *     $chat->serve();
 *
 * One address may serve a hook and webhooks: the secrets of all are given here.
 */
final class Handlers
{
    private const JSON = JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE;

    /** @var array<string, callable> by the type of the question, or of the entry */
    private array $handlers = [];

    /** @param string|list<string> $secrets `whsec_…` of the hook and of the webhooks that come here */
    public function __construct(#[\SensitiveParameter] private readonly string|array $secrets)
    {
    }

    /**
     * A user connects. The handler returns an {@see Answer}, or null to accept.
     *
     * @param callable(Ask): ?Answer $handler
     */
    public function onOpen(callable $handler): self
    {
        return $this->on('ask.open', $handler);
    }

    /**
     * A user sends a message, which is not stored yet. The handler returns an {@see Answer}, or null to accept.
     *
     * @param callable(Ask): ?Answer $handler
     */
    public function onMessage(callable $handler): self
    {
        return $this->on('ask.message', $handler);
    }

    /**
     * A user's last connection has ended: `$entry->user()`.
     *
     * @param callable(Entry): void $handler
     */
    public function onClose(callable $handler): self
    {
        return $this->on('user.offline', $handler);
    }

    /**
     * Any other question (`ask.create`) or entry of the feed (`message`, `user.missed`).
     *
     * @param callable(Ask): ?Answer|callable(Entry): void $handler
     */
    public function on(string $type, callable $handler): self
    {
        $this->handlers[$type] = $handler;
        return $this;
    }

    /** Answers the request that PHP is executing: under php-fpm, `php -S` or another web server's PHP. */
    public function serve(): void
    {
        $method = $_SERVER['REQUEST_METHOD'] ?? '';
        if ($method !== 'POST') {
            (new Reply(405, '', ['allow' => 'POST']))->send();
            return;
        }
        $this->handle($_SERVER, (string) file_get_contents('php://input'))->send();
    }

    /**
     * Answers a request. An exception of a handler is the application's to log; without an answer the server does what
     * its `on_failure` says, or sends the webhook again.
     *
     * @param iterable<string, mixed> $headers see {@see Webhook::verify()}
     */
    public function handle(iterable $headers, string $body): Reply
    {
        try {
            $request = Webhook::verify($this->secrets, $body, $headers);
        } catch (BadSignature $failure) {
            // Not a status of 4xx, after which the server would park the entry: the fault is a secret or a clock here.
            return new Reply(503, $failure->getMessage(), ['content-type' => 'text/plain']);
        }
        $data = $request['data'] ?? [];
        return str_starts_with($request['type'], 'ask.')
            ? $this->answer($request['type'], $data)
            : $this->receive(Entry::of($data));
    }

    /** Calls the handler of an entry of the feed, whichever way it came. */
    public function dispatch(Entry $entry): void
    {
        if (isset($this->handlers[$entry->type])) {
            ($this->handlers[$entry->type])($entry);
        }
    }

    /**
     * Without the secrets.
     *
     * @return array<string, mixed>
     */
    public function __debugInfo(): array
    {
        return ['handlers' => array_keys($this->handlers)];
    }

    /** @param array<string, mixed> $data */
    private function answer(string $type, array $data): Reply
    {
        if (!isset($this->handlers[$type])) {
            // Nothing is accepted that was meant to be asked about: the server's `on_failure` decides.
            return new Reply(501, "no handler for $type", ['content-type' => 'text/plain']);
        }
        $answer = ($this->handlers[$type])(Ask::of(substr($type, 4), $data));
        if ($answer === null) {
            return new Reply(204, '', []);
        }
        if (!$answer instanceof Answer) {
            throw new \UnexpectedValueException("the handler for $type returned no Answer");
        }
        return new Reply(200, json_encode($answer, self::JSON));
    }

    private function receive(Entry $entry): Reply
    {
        $this->dispatch($entry);
        return new Reply(204, '', []);
    }
}
