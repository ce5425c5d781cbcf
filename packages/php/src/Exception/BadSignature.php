<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** A webhook or a hook's request is not signed with the secret, or its time is too far from now. */
final class BadSignature extends \RuntimeException
{
}
