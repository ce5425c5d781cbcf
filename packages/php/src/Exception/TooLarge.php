<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The command exceeds one of the server's limits. */
final class TooLarge extends ChatException
{
}
