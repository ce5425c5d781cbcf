<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The server has no such command; it may be older than this package. */
final class UnknownType extends ChatException
{
}
