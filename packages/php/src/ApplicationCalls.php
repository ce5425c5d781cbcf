<?php

declare(strict_types=1);

namespace Switchboard;

use Switchboard\Exception\ChatException;

/**
 * The calls that concern the application and not one of its users. They need an API key.
 *
 * @internal a part of {@see Client}
 */
trait ApplicationCalls
{
    /**
     * Executes any command; see {@see Client::command()}.
     *
     * @param array<string, mixed> $fields
     * @return array<string, mixed>
     * @throws ChatException
     */
    abstract public function command(string $name, array $fields = []): array;

    /**
     * Logs a user out everywhere: tokens made up to now become invalid, and the user's connections are closed. The key
     * needs the scope `moderate`.
     *
     * @param bool $replace revokes as of now even if an earlier call stored a later time, by a clock that was wrong
     */
    public function revoke(string $user, bool $replace = false): void
    {
        $this->command('revoke', ['user' => $user] + ($replace ? ['replace' => true] : []));
    }

    /**
     * Bans a user from the installation: the user's connections are closed, and the user is refused until the ban ends.
     * The key needs the scope `moderate`.
     *
     * @param ?\DateTimeInterface $until when it ends; without it, it has no end
     * @param ?string $reason what the user reads
     * @param ?string $note what only moderators read
     * @param bool $shadow whether the user comes in all the same, and what they send is held; then there is no reason
     */
    public function ban(
        string $user,
        ?\DateTimeInterface $until = null,
        ?string $reason = null,
        ?string $note = null,
        bool $shadow = false,
    ): void {
        $fields = ['until' => $until?->format(DATE_RFC3339), 'reason' => $reason, 'note' => $note];
        $fields = array_filter($fields, static fn (?string $value): bool => $value !== null);
        $this->command('ban', ['user' => $user] + $fields + ($shadow ? ['shadow' => true] : []));
    }

    /**
     * Ends a user's ban. The key needs the scope `moderate`.
     */
    public function unban(string $user): void
    {
        $this->command('ban', ['user' => $user, 'on' => false]);
    }

    /**
     * The bans that hold now, by the users' numbers. The key needs the scope `moderate`.
     *
     * @return iterable<string, array<string, mixed>> by user: `number`, `user`, `until`, `at`, `shadow`, …
     */
    public function bans(): iterable
    {
        yield from $this->listed('bans', 'bans', 'user', []);
    }

    /**
     * What users have reported, by number. The key needs the scope `moderate`.
     *
     * @param ?string $state `open`, `claimed` or `done`; without it, all
     * @param ?string $user whose reports; without it, those of all users
     * @return iterable<string, array<string, mixed>> by id: `report`, `state`, `user`, `conversation`, `target`, …
     */
    public function reports(?string $state = null, ?string $user = null): iterable
    {
        $only = array_filter(['state' => $state, 'user' => $user], static fn (?string $value): bool => $value !== null);
        yield from $this->listed('reports', 'reports', 'report', $only);
    }

    /**
     * Claims or decides a report. The key needs the scope `moderate`.
     *
     * @param string $action `claim`, `none`, `delete`, `ban`, `silence` or `remove`; also `release`, `reject` (held)
     * @param ?\DateTimeInterface $until when a ban or a silence ends; without it, it has no end
     * @param ?string $note what only moderators read
     * @param ?string $tell what the author reads
     * @param ?string $as the moderator; without it, the name of the key
     */
    public function resolve(
        string $report,
        string $action,
        ?\DateTimeInterface $until = null,
        ?string $note = null,
        ?string $tell = null,
        ?string $as = null,
    ): void {
        $fields = ['until' => $until?->format(DATE_RFC3339), 'note' => $note, 'tell' => $tell, 'as' => $as];
        $fields = array_filter($fields, static fn (?string $value): bool => $value !== null);
        $this->command('resolve', ['report' => $report, 'action' => $action] + $fields);
    }

    /**
     * The messages around one, for a moderator. The audit log notes it, with the reason. It needs the scope `moderate`.
     *
     * @param ?string $as the moderator; without it, the name of the key
     * @return list<array<string, mixed>> by ascending `seq`, as `history` has them
     */
    public function moderateHistory(string $conversation, int $around, string $reason, ?string $as = null): array
    {
        $fields = ['conversation' => $conversation, 'around' => $around, 'reason' => $reason];
        return $this->command('moderate/history', $fields + ($as === null ? [] : ['as' => $as]))['messages'];
    }

    /**
     * Changes the profiles of up to 1,000 users, of all or of none. The key needs the scope `people`.
     *
     *     $chat->profiles([
     *         ['user' => 'usr_1', 'name' => 'Ana María López'],
     *         ['user' => 'usr_2', 'avatar' => null, 'active' => false],
     *     ]);
     *
     * @param list<array<string, mixed>> $profiles `user`, and of `name`, `avatar`, `data`, `active` what changes; null
     *     removes, and a user whose `active` is false cannot sign in
     */
    public function profiles(array $profiles): void
    {
        $objects = static fn (array $profile): array =>
            array_map(static fn (mixed $value): mixed => is_array($value) ? (object) $value : $value, $profile);
        $this->command('profiles', ['profiles' => array_map($objects, array_values($profiles))]);
    }

    /**
     * Stores up to 1,000 lines of another system's history, all of them or none; see "Moving in" in docs/people.md.
     * What was stored before is a duplicate. The key needs the scope `admin`.
     *
     *     $chat->import([
     *         ['create' => '#visit-9', 'at' => '2019-03-01T09:00:00Z', 'from' => 'shop', 'members' => ['bob']],
     *         ['to' => '#visit-9', 'from' => 'bob', 'at' => '2019-03-01T09:00:01Z', 'key' => 'm17', 'text' => 'Hi'],
     *     ]);
     *
     * @param list<array<string, mixed>> $lines in the order of their times
     * @return array{stored: int, duplicates: int}
     */
    public function import(array $lines): array
    {
        $answer = $this->command('import', ['lines' => array_values($lines)]);
        return ['stored' => $answer['stored'], 'duplicates' => $answer['duplicates']];
    }

    /**
     * Sends a direct message to each of up to 1,000 users, in the name of the client's user. The key needs the scope
     * `act`. A call with the same `$key` sends only what was not stored, so it can be repeated after a failure.
     *
     * @param list<string> $users
     * @param string $key at most 63 characters
     * @param ?array<string, mixed> $data
     * @return list<array<string, mixed>> what became of each: `user`, and `conversation`, `seq`, `at`, or `error`
     */
    public function sendMany(array $users, string $key, ?string $text = null, ?array $data = null): array
    {
        $fields = ['users' => array_values($users), 'key' => $key];
        $fields += $text === null ? [] : ['text' => $text];
        return $this->command('send_many', $fields + ($data === null ? [] : ['data' => (object) $data]))['results'];
    }

    /**
     * Gives a user another id, under which everything of theirs is found from now on. The old id is never given again.
     * The key needs the scope `admin`.
     *
     * @param string $to an id that was never used
     */
    public function renameUser(string $user, string $to): void
    {
        $this->command('rename_user', ['user' => $user, 'to' => $to]);
    }

    /**
     * Deletes a room for all of its members. Its id is never given again. The key needs the scope `admin`.
     *
     * @param string|null $by the user in whose name; without it, the id that is the key's name
     */
    public function deleteRoom(string $conversation, ?string $by = null): Stored
    {
        return Stored::of($this->command('delete_room', ['conversation' => $conversation, 'as' => $by]));
    }

    /**
     * What up to 1,000 users have not read, each over the 200 conversations with the latest activity, in the order
     * asked. The key needs the scope `people`.
     *
     * @param list<string> $users
     * @return list<array<string, mixed>> of each `user`, `messages`, `conversations`, `online`, `last_seen`, `more`
     */
    public function unread(array $users): array
    {
        return $this->command('unread', ['users' => array_values($users)])['users'];
    }

    /**
     * All users, by number. The key needs the scope `people`.
     *
     * @param ?string $match a pattern of ids, as `usr_*`
     * @return iterable<string, array<string, mixed>> by id: `number`, `user`, `name`, `avatar`, `data`, `active`,
     *     `last_seen`
     */
    public function listUsers(?string $match = null, ?bool $active = null): iterable
    {
        $filters = ['match' => $match, 'active' => $active];
        $filters = array_filter($filters, static fn (mixed $value): bool => $value !== null);
        yield from $this->listed('list_users', 'users', 'user', $filters);
    }

    /**
     * All rooms, by number. The key needs the scope `people`.
     *
     * @param ?string $match a pattern of ids, as `#support-*`
     * @param ?string $member only rooms of which this user is a member
     * @return iterable<string, array<string, mixed>> by id: `number`, `conversation`, `title`, `public`, `members`,
     *     `messages`, `head`, `at`
     */
    public function listRooms(?string $match = null, ?string $member = null, ?bool $public = null): iterable
    {
        $filters = ['match' => $match, 'member' => $member, 'public' => $public];
        $filters = array_filter($filters, static fn (mixed $value): bool => $value !== null);
        yield from $this->listed('list_rooms', 'rooms', 'conversation', $filters);
    }

    /**
     * @param array<string, mixed> $filters
     * @return \Generator<string, array<string, mixed>>
     */
    private function listed(string $call, string $items, string $id, array $filters): \Generator
    {
        $after = 0;
        do {
            $page = $this->command($call, $filters + ['after' => $after]);
            foreach ($page[$items] as $item) {
                yield $item[$id] => $item;
            }
            $after = $page['next'];
        } while ($page['more']);
    }

    /**
     * Sends the entries of the feed to a URL from now on; see "Webhooks" in docs/protocol.md. This call and all others
     * about webhooks need a key with the scope `admin`.
     *
     * The call is not repeated after a failure, because the secret is shown once. If a failure leaves it open whether
     * there is a webhook, `rotateWebhook` makes another secret.
     *
     * @param list<string> $types the types of entries, as `message`; without it all but `audit.*`
     * @param list<string> $only the conversations, as `#support-*`; without it all
     * @param string $from where it begins: `now`, `0`, or a cursor of the feed
     * @param array<string, string> $headers headers of each request
     * @param bool $imported sends what was imported, too
     * @return string the secret that signs the requests: `whsec_…`
     */
    public function addWebhook(
        string $name,
        string $url,
        array $types = [],
        array $only = [],
        string $from = 'now',
        array $headers = [],
        bool $imported = false,
    ): string {
        return $this->command('add_webhook', [
            'name' => $name,
            'url' => $url,
            'types' => array_values($types),
            'only' => array_values($only),
            'from' => $from,
            'headers' => (object) $headers,
            'imported' => $imported,
        ])['secret'];
    }

    /** @return list<array<string, mixed>> all webhooks, with `position`, `lag`, `parked`, `answers`, … */
    public function listWebhooks(): array
    {
        return $this->command('list_webhooks')['webhooks'];
    }

    /** Sends nothing more until it is resumed. */
    public function pauseWebhook(string $name): void
    {
        $this->command('pause_webhook', ['name' => $name]);
    }

    /** Goes on where it was paused, and tries an endpoint at fault at once. */
    public function resumeWebhook(string $name): void
    {
        $this->command('resume_webhook', ['name' => $name]);
    }

    public function removeWebhook(string $name): void
    {
        $this->command('remove_webhook', ['name' => $name]);
    }

    /**
     * Sends an entry of the type `webhook.test`.
     *
     * @return array<string, mixed> how it ended: `took` in milliseconds, and `status`, or `error` without an answer
     */
    public function testWebhook(string $name): array
    {
        return $this->command('test_webhook', ['name' => $name])['answer'];
    }

    /**
     * Gives a webhook another secret. The call is not repeated after a failure, because each makes another secret.
     *
     * @param int $overlap milliseconds that the secret of before signs as well
     * @return string the new secret: `whsec_…`
     */
    public function rotateWebhook(string $name, int $overlap = 0): string
    {
        return $this->command('rotate_webhook', ['name' => $name, 'overlap' => $overlap])['secret'];
    }

    /**
     * Sends entries again: those after a place, or those that are parked.
     *
     * @param ?string $from a cursor of the feed, `0`, or a time as `2026-11-23T12:00:00.000Z`
     */
    public function replayWebhook(string $name, ?string $from = null, bool $parked = false): void
    {
        $this->command('replay_webhook', ['name' => $name, 'from' => $from, 'parked' => $parked]);
    }
}
