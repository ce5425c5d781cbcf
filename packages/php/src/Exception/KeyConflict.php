<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The idempotency key was used for another message; a new message needs a new key. */
final class KeyConflict extends ChatException
{
}
