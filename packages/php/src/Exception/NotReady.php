<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** An object that the command names is not ready yet. */
final class NotReady extends ChatException
{
}
