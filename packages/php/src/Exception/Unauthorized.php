<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The token or key is missing, wrong or expired. */
final class Unauthorized extends ChatException
{
}
