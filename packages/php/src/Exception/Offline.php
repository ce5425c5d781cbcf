<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** No connection to the server, or it broke before the answer: whether the command was executed is unknown. */
final class Offline extends ChatException
{
}
