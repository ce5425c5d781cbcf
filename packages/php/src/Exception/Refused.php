<?php

declare(strict_types=1);

namespace Switchboard\Exception;

/** The application refused the command; the message is the application's. */
final class Refused extends ChatException
{
}
