<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** It does not exist, or the user may not know whether it does. */
final class NotFound extends ChatException
{
}
