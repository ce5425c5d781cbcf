<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** A room of that name exists, with other fields or by another user. */
final class AlreadyExists extends ChatException
{
}
