<?php

declare(strict_types=1);

namespace Switchboard;

use Switchboard\Exception\ChatException;
use Switchboard\Exception\Unavailable;

/**
 * The server's commands over HTTP, with an API key in the name of any user, or with a user's token.
 *
 * A failure that may pass (no connection, a restart, a rate limit) is retried within the time-out. This is safe: a
 * message has a key, and a room a name, before the first attempt, and the calls that make a secret are not retried.
 *
 * Events, messages, summaries and members are arrays with the fields in docs/protocol.md.
 */
final class Client
{
    use ApplicationCalls;

    /** The first and the longest delay before another attempt, in seconds. */
    private const BACKOFF = 0.2;
    private const MAX_BACKOFF = 5.0;
    private const JSON = JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE
        | JSON_PRESERVE_ZERO_FRACTION;

    /** The calls that concern the application, not one of its users: they have no `as`. */
    private const OF_THE_APPLICATION = [
        'add_webhook', 'ban', 'bans', 'delete_room', 'feed', 'import', 'list_rooms', 'list_users', 'list_webhooks',
        'moderate/history', 'pause_webhook', 'profiles', 'remove_webhook', 'rename_user', 'replay_webhook', 'reports',
        'resolve', 'resume_webhook', 'revoke', 'rotate_webhook', 'test_webhook', 'unread',
    ];
    /** The calls that are not repeated, because each makes another secret. */
    private const ONCE = ['add_webhook', 'rotate_webhook'];

    private readonly string $url;
    private readonly string $key;
    private readonly Http $http;

    /**
     * @param string $url the server, as `https://chat.example`
     * @param string $key an API key (`switchboard key create`), or a user's token
     * @param ?string $as with an API key: the user in whose name commands are executed
     * @param float $timeout seconds for a call with all its attempts
     * @param float $connectTimeout seconds for one attempt to connect
     */
    public function __construct(
        string $url,
        #[\SensitiveParameter] string $key,
        private ?string $as = null,
        private float $timeout = 10.0,
        float $connectTimeout = 3.0,
    ) {
        if (preg_match('#^(http|ws)s?://[^/?\#\s]+#', $url) !== 1 || strpbrk($url, '?#') !== false) {
            throw new \InvalidArgumentException('the URL of a server begins with http:// or https://');
        }
        // The message does not contain the key, because it is a secret.
        if (preg_match('/^[!-~]+$/D', trim($key)) !== 1) {
            throw new \InvalidArgumentException('this is neither an API key nor a token');
        }
        if (!($timeout > 0) || !($connectTimeout > 0)) {
            throw new \InvalidArgumentException('a time-out is a number of seconds above 0');
        }
        $this->url = preg_replace(['#^ws#', '#(/v1/ws)?/*$#D'], ['http', ''], $url, 1);
        $this->key = trim($key);
        $this->http = new Http($connectTimeout);
    }

    /** The same client, over the same connection, in the name of another user. */
    public function as(string $user): self
    {
        $other = clone $this;
        $other->as = $user;
        return $other;
    }

    /** The same client, over the same connection, with another time-out in seconds. */
    public function within(float $timeout): self
    {
        if (!($timeout > 0)) {
            throw new \InvalidArgumentException('a time-out is a number of seconds above 0');
        }
        $other = clone $this;
        $other->timeout = $timeout;
        return $other;
    }

    /** A room or a direct conversation: `#general`, `@bob`, or a conversation id. */
    public function conversation(string $id): Conversation
    {
        return new Conversation($this, $id);
    }

    /** A room, with or without the leading `#`. */
    public function room(string $id): Room
    {
        return new Room($this, '#' . ltrim($id, '#'));
    }

    public function user(string $id): User
    {
        return new User($this, $id);
    }

    /**
     * Sends a message.
     *
     * @param string $to `@alice`, `#general`, or a conversation id
     * @param array<string, mixed>|object|null $data a JSON object of the application
     * @param ?string $key the idempotency key: messages with the same key are stored once, for example the number of an
     *     order. Without it a random key is used, so that only the retries of this call are recognized
     */
    public function send(
        string $to,
        ?string $text = null,
        array|object|null $data = null,
        ?string $key = null,
        ?int $replyTo = null,
    ): Stored {
        return $this->store('send', [
            'to' => $to,
            'key' => $key ?? bin2hex(random_bytes(16)),
            'text' => $text,
            'data' => self::object($data),
            'reply_to' => $replyTo,
        ]);
    }

    /**
     * Replaces the content of a message that the user wrote; an omitted part is removed.
     *
     * @param array<string, mixed>|object|null $data
     */
    public function edit(
        string $conversation,
        int $target,
        ?string $text = null,
        array|object|null $data = null,
    ): Stored {
        $fields = ['conversation' => $conversation, 'target' => $target, 'text' => $text];
        return $this->store('edit', $fields + ['data' => self::object($data)]);
    }

    /** Erases a message: one that the user wrote, or any in a room as admin. */
    public function delete(string $conversation, int $target): Stored
    {
        return $this->store('delete', ['conversation' => $conversation, 'target' => $target]);
    }

    /** Sets or removes a reaction. */
    public function react(string $conversation, int $target, string $emoji, bool $on = true): Stored
    {
        $fields = ['conversation' => $conversation, 'target' => $target, 'emoji' => $emoji, 'on' => $on];
        return $this->store('react', $fields);
    }

    /**
     * Creates a room; the user is its admin. Without `$room` it has a random name.
     *
     * @param list<string> $members the first members besides the user
     */
    public function create(
        ?string $room = null,
        ?string $title = null,
        bool $public = false,
        array $members = [],
    ): Stored {
        return $this->store('create', [
            'room' => $room ?? bin2hex(random_bytes(16)),
            'title' => $title,
            'public' => $public,
            'members' => array_values($members),
        ]);
    }

    /** Joins a public room. */
    public function join(string $conversation): Stored
    {
        return $this->store('join', ['conversation' => $conversation]);
    }

    public function leave(string $conversation): Stored
    {
        return $this->store('leave', ['conversation' => $conversation]);
    }

    /** Adds a user to a room at once. */
    public function invite(string $conversation, string $user, Role $role = Role::Member): Stored
    {
        $fields = ['conversation' => $conversation, 'user' => $user, 'role' => $role->value];
        return $this->store('invite', $fields);
    }

    /**
     * Removes a user from a room. With `$ban` the user stays out, until the time `$until` (RFC 3339) or an admin's
     * invitation; this also bans a user who is no member.
     */
    public function remove(string $conversation, string $user, bool $ban = false, ?string $until = null): Stored
    {
        $fields = ['conversation' => $conversation, 'user' => $user, 'ban' => $ban ?: null, 'until' => $until];
        return $this->store('remove', $fields);
    }

    /** Changes a member's role. A reader `$until` a time (RFC 3339) is then what they were. */
    public function role(string $conversation, string $user, Role $role, ?string $until = null): Stored
    {
        $fields = ['conversation' => $conversation, 'user' => $user, 'role' => $role->value, 'until' => $until];
        return $this->store('role', $fields);
    }

    /**
     * Changes the settings of a room: the milliseconds between two messages of a member (0 for none), and whether a
     * user who was removed may join again. Null leaves a setting as it is.
     */
    public function settings(string $conversation, ?int $slow = null, ?bool $rejoin = null): Stored
    {
        return $this->store('settings', ['conversation' => $conversation, 'slow' => $slow, 'rejoin' => $rejoin]);
    }

    /** Changes a room's title. */
    public function rename(string $conversation, string $title): Stored
    {
        return $this->store('rename', ['conversation' => $conversation, 'title' => $title]);
    }

    /** Moves the user's read cursor; returns where it is now. */
    public function read(string $conversation, int $upto): int
    {
        return $this->command('read', ['conversation' => $conversation, 'upto' => $upto])['upto'];
    }

    /** Moves the user's received cursor; returns where it is now. */
    public function received(string $conversation, int $upto): int
    {
        return $this->command('received', ['conversation' => $conversation, 'upto' => $upto])['upto'];
    }

    /** Shows the other members for 5 s that the user is typing. */
    public function typing(string $conversation): void
    {
        $this->command('typing', ['conversation' => $conversation]);
    }

    /** A page of the raw log: the events after `$after`, oldest first. The next page is after the last `seq`. */
    public function sync(string $conversation, int $after = 0, ?int $limit = null): Page
    {
        $fields = ['conversation' => $conversation, 'after' => $after, 'limit' => $limit];
        return Page::of($this->command('sync', $fields), 'events');
    }

    /**
     * A page of messages in their current state, oldest first: the latest, those before a `seq`, or those around one.
     * The next page, further back, is before the first `seq`.
     */
    public function history(
        string $conversation,
        ?int $before = null,
        ?int $around = null,
        ?int $limit = null,
    ): Page {
        $fields = ['conversation' => $conversation, 'before' => $before, 'around' => $around, 'limit' => $limit];
        return Page::of($this->command('history', $fields), 'messages');
    }

    /** A page of the user's conversations, latest activity first. The next page is before the last conversation's id. */
    public function conversations(?string $before = null, ?int $limit = null): Page
    {
        return Page::of($this->command('conversations', ['before' => $before, 'limit' => $limit]), 'conversations');
    }

    /** A page of a conversation's members. The next page is after the last user. */
    public function members(string $conversation, ?string $after = null, ?int $limit = null): Page
    {
        $fields = ['conversation' => $conversation, 'after' => $after, 'limit' => $limit];
        return Page::of($this->command('members', $fields), 'members');
    }

    /** Checks the address, the key and the connection. */
    public function ping(): void
    {
        $this->command('ping');
    }

    /**
     * Changes the user's own profile: `profile(name: 'Ana', avatar: null)`. What is not named stays as it was; null
     * removes it.
     *
     * @param string|array<string, mixed>|object|null ...$changes `name`, `avatar`, `data`
     * @return int the profile's version
     */
    public function profile(string|array|object|null ...$changes): int
    {
        if (array_is_list($changes)) {
            throw new \InvalidArgumentException("name what changes, as in profile(name: '…')");
        }
        $object = static fn (mixed $value): mixed => is_array($value) ? (object) $value : $value;
        return $this->execute('profile', array_map($object, $changes))['version'];
    }

    /**
     * The profiles of users, in this order, without those whom the user may not see.
     *
     * @param list<string> $users
     */
    public function users(array $users): Page
    {
        return Page::of($this->command('users', ['users' => array_values($users)]), 'users');
    }

    /** The users whose name has a word with this beginning, or whose id begins so; at least two bytes. */
    public function findUsers(string $query, ?int $limit = null): Page
    {
        return Page::of($this->command('find_users', ['query' => $query, 'limit' => $limit]), 'users');
    }

    /** Hides everything that another user writes from the user, or shows it again. */
    public function block(string $user, bool $on = true): void
    {
        $this->command('block', ['user' => $user, 'on' => $on]);
    }

    /** A page of the users whom the user blocks. The next page is after the last one. */
    public function blocks(?string $after = null, ?int $limit = null): Page
    {
        return Page::of($this->command('blocks', ['after' => $after, 'limit' => $limit]), 'blocks');
    }

    /**
     * Reports a message, by `$conversation` and `$target`, or a `$user`, to the moderators.
     *
     * @param string $reason `spam`, `abuse`, `sexual`, `violence`, `self_harm`, `illegal` or `other`
     * @return string the report, the same for a second report of the same target
     */
    public function report(
        string $reason,
        ?string $conversation = null,
        ?int $target = null,
        ?string $user = null,
        ?string $text = null,
    ): string {
        $of = ['conversation' => $conversation, 'target' => $target, 'user' => $user];
        return $this->command('report', $of + ['reason' => $reason, 'text' => $text])['report'];
    }

    /**
     * Executes any command of docs/protocol.md. Fields that are null are omitted.
     *
     * @param array<string, mixed> $fields
     * @return array<string, mixed> the fields of the server's `ok`
     * @throws ChatException
     */
    public function command(string $name, array $fields = []): array
    {
        return $this->execute($name, array_filter($fields, static fn (mixed $value): bool => $value !== null));
    }

    /**
     * Without the key.
     *
     * @return array<string, mixed>
     */
    public function __debugInfo(): array
    {
        return ['url' => $this->url, 'as' => $this->as, 'timeout' => $this->timeout];
    }

    /**
     * Executes a command, and again after a failure that may pass.
     *
     * @param array<string, mixed> $fields
     * @return array<string, mixed>
     */
    private function execute(string $name, array $fields): array
    {
        $type = $name === 'import' ? 'application/x-ndjson' : 'application/json';
        $request = [
            "$this->url/v1/$name",
            ["authorization: Bearer $this->key", "content-type: $type", 'expect:'],
            $this->encode($name, $fields),
        ];
        $deadline = self::now() + $this->timeout;
        for ($wait = self::BACKOFF;; $wait = min($wait * 2, self::MAX_BACKOFF)) {
            try {
                return $this->attempt($request, $deadline - self::now());
            } catch (ChatException $failure) {
                $pause = $failure->retryAfter !== null
                    ? $failure->retryAfter / 1_000
                    : $wait * random_int(1, 1_000) / 1_000;
                $again = $failure->retryable && !in_array($name, self::ONCE, true);
                if (!$again || self::now() + $pause >= $deadline) {
                    throw $failure;
                }
                usleep((int) ($pause * 1_000_000));
            }
        }
    }

    /** @param array<string, mixed> $fields */
    private function store(string $name, array $fields): Stored
    {
        return Stored::of($this->command($name, $fields));
    }

    /**
     * @param array{string, list<string>, string} $request
     * @return array<string, mixed>
     */
    private function attempt(array $request, float $timeout): array
    {
        [$status, $headers, $body] = $this->http->post(...[...$request, $timeout]);
        $answer = json_decode($body, true);
        if (is_array($answer) && in_array($answer['type'] ?? null, ['ok', 'pong'], true)) {
            unset($answer['type']);
            return $answer;
        }
        $requestId = $headers['x-request-id'] ?? null;
        if (is_array($answer) && is_string($answer['code'] ?? null)) {
            throw ChatException::of($answer, $status, $requestId);
        }
        // The answer is not from a Switchboard server, but from a proxy, for example.
        $message = "HTTP $status: " . substr(preg_replace('/[^ -~]+/', ' ', $body), 0, 200);
        throw $status >= 500 || $status === 408 || $status === 429
            ? new Unavailable($message, 'unavailable', true, status: $status, requestId: $requestId)
            : new ChatException($message, 'internal', false, status: $status, requestId: $requestId);
    }

    /** @param array<string, mixed> $fields */
    private function encode(string $name, array $fields): string
    {
        if ($this->as !== null && !in_array($name, self::OF_THE_APPLICATION, true)) {
            $fields += ['as' => $this->as];
        }
        try {
            if ($name === 'import') {
                $line = static fn (array|object $line): string => json_encode((object) $line, self::JSON) . "\n";
                return implode('', array_map($line, $fields['lines'] ?? []));
            }
            return json_encode((object) $fields, self::JSON);
        } catch (\JsonException $cause) {
            $message = "the fields of `$name` cannot be written as JSON: {$cause->getMessage()}";
            throw new \InvalidArgumentException($message, previous: $cause);
        }
    }

    /**
     * An array as a JSON object, also when it is empty or a list: PHP has one type for both.
     *
     * @param array<string, mixed>|object|null $data
     */
    private static function object(array|object|null $data): ?object
    {
        return $data === null ? null : (object) $data;
    }

    private static function now(): float
    {
        return hrtime(true) / 1e9;
    }
}
