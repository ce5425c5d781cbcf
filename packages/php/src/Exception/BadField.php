<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** A field is missing, mistyped, out of range or unknown; `field` names it. */
final class BadField extends ChatException
{
}
