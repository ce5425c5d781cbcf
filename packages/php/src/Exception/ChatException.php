<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/**
 * A command failed. Each code of the server has a class of its own; an unknown code is this class, and `retryable`
 * says whether the same command may succeed later.
 */
class ChatException extends \RuntimeException
{
    private const CLASSES = [
        'already_exists' => AlreadyExists::class,
        'bad_cursor' => BadCursor::class,
        'bad_field' => BadField::class,
        'bad_frame' => BadFrame::class,
        'banned' => Banned::class,
        'forbidden' => Forbidden::class,
        'key_conflict' => KeyConflict::class,
        'not_found' => NotFound::class,
        'not_ready' => NotReady::class,
        'rate_limited' => RateLimited::class,
        'refused' => Refused::class,
        'too_large' => TooLarge::class,
        'unauthorized' => Unauthorized::class,
        'unavailable' => Unavailable::class,
        'unknown_type' => UnknownType::class,
    ];

    /**
     * @param string $message for a person; it may change, so rely on `errorCode`
     * @param string $errorCode the server's code; `offline` and `timed_out` if there is no answer
     * @param ?int $retryAfter milliseconds to wait before another attempt
     * @param ?string $field the field at fault
     * @param ?int $status the HTTP status, null without an answer
     * @param ?string $requestId names the request in the server's log
     * @param array<string, mixed> $details the whole answer
     */
    final public function __construct(
        string $message,
        public readonly string $errorCode,
        public readonly bool $retryable = false,
        public readonly ?int $retryAfter = null,
        public readonly ?string $field = null,
        public readonly ?int $status = null,
        public readonly ?string $requestId = null,
        public readonly array $details = [],
        ?\Throwable $previous = null,
    ) {
        parent::__construct($message, $status ?? 0, $previous);
    }

    /**
     * The exception for a problem document (RFC 9457) of the server.
     *
     * @param array<string, mixed> $problem
     */
    public static function of(array $problem, int $status, ?string $requestId): self
    {
        $code = (string) $problem['code'];
        $class = self::CLASSES[$code] ?? self::class;
        return new $class(
            (string) ($problem['detail'] ?? $code),
            $code,
            ($problem['retryable'] ?? false) === true,
            is_int($problem['retry_after'] ?? null) ? $problem['retry_after'] : null,
            is_string($problem['field'] ?? null) ? $problem['field'] : null,
            $status,
            $requestId,
            $problem,
        );
    }
}
