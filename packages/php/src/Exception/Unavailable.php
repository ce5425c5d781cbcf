<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The server cannot store or read at the moment: whether the command was executed is unknown. */
final class Unavailable extends ChatException
{
}
