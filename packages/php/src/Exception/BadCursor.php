<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The cursor is past the end of the log, or of another log. */
final class BadCursor extends ChatException
{
}
