<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The user's role or the key's scope does not allow the command. */
final class Forbidden extends ChatException
{
}
