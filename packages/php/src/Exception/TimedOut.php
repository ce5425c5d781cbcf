<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** No answer within the time-out: whether the command was executed is unknown. */
final class TimedOut extends ChatException
{
}
