<?php

declare(strict_types=1);

namespace Switchboard;

/** The answer to a question of the server. */
final class Answer implements \JsonSerializable
{
    /** The longest reason of a refusal, in bytes; the rest is cut. */
    private const MAX_REASON = 500;

    /** @param array<string, mixed> $fields */
    private function __construct(private readonly string $action, private readonly array $fields = [])
    {
    }

    /**
     * Goes ahead.
     *
     * @param ?array<string, mixed> $profile for `open`: the user's profile
     * @param list<string> $join for `open`: rooms that the user becomes a member of
     */
    public static function accept(?array $profile = null, array $join = []): self
    {
        $fields = $profile === null ? [] : ['profile' => (object) $profile];
        return new self('accept', $fields + ($join === [] ? [] : ['join' => array_values($join)]));
    }

    /**
     * Stores something else: `Answer::replace(text: '***')`. What is not named stays as it was; null removes it.
     *
     * @param string|array<string, mixed>|object|null ...$changes `text`, `data`
     */
    public static function replace(string|array|object|null ...$changes): self
    {
        if ($changes === [] || array_is_list($changes)) {
            throw new \InvalidArgumentException("name what is replaced, as in replace(text: '…')");
        }
        $object = static fn (mixed $value): mixed => is_array($value) ? (object) $value : $value;
        return new self('replace', array_map($object, $changes));
    }

    /** Refuses, with a reason that the user sees. */
    public static function refuse(string $message): self
    {
        $reason = substr($message, 0, self::MAX_REASON);
        while ($reason !== '' && preg_match('//u', $reason) !== 1) {
            $reason = substr($reason, 0, -1);
        }
        return new self('refuse', ['message' => $reason]);
    }

    /** Lets a message wait for a moderator. Other questions cannot be answered so. */
    public static function hold(): self
    {
        return new self('hold');
    }

    /** @return array<string, mixed> */
    public function jsonSerialize(): array
    {
        return ['action' => $this->action] + $this->fields;
    }
}
