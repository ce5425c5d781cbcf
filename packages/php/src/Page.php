<?php

declare(strict_types=1);

namespace Switchboard;

/**
 * A page of events, messages, conversations or members, each an array as in docs/protocol.md.
 *
 * @implements \IteratorAggregate<int, array<string, mixed>>
 */
final class Page implements \Countable, \IteratorAggregate
{
    /**
     * @param list<array<string, mixed>> $items
     * @param bool $more whether there is another page; rely on it, not on the count
     * @param ?int $head the last event that the page includes (`history`), or that the user may see (`sync`)
     * @param ?bool $moreAfter with `around`: whether there are messages after these
     */
    public function __construct(
        public readonly array $items,
        public readonly bool $more,
        public readonly ?int $head = null,
        public readonly ?bool $moreAfter = null,
    ) {
    }

    /** @param array<string, mixed> $answer */
    public static function of(array $answer, string $items): self
    {
        return new self($answer[$items], $answer['more'], $answer['head'] ?? null, $answer['more_after'] ?? null);
    }

    public function count(): int
    {
        return count($this->items);
    }

    /** @return \ArrayIterator<int, array<string, mixed>> */
    public function getIterator(): \ArrayIterator
    {
        return new \ArrayIterator($this->items);
    }
}
