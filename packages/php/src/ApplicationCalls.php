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
     * @return string the secret that signs the requests: `whsec_…`
     */
    public function addWebhook(
        string $name,
        string $url,
        array $types = [],
        array $only = [],
        string $from = 'now',
        array $headers = [],
    ): string {
        return $this->command('add_webhook', [
            'name' => $name,
            'url' => $url,
            'types' => array_values($types),
            'only' => array_values($only),
            'from' => $from,
            'headers' => (object) $headers,
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
