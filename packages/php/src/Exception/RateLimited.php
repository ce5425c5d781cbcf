<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** Too fast, or too many requests at once. */
final class RateLimited extends ChatException
{
}
