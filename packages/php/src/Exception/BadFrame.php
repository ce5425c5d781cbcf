<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The request is not a JSON object. */
final class BadFrame extends ChatException
{
}
