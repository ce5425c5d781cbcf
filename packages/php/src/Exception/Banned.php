<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The user is banned: until `details['until']`, or without an end if that is absent. */
final class Banned extends ChatException
{
}
