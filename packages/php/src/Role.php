<?php

declare(strict_types=1);

namespace Switchboard;

/** What a member of a room may do; see "Roles" in docs/protocol.md. */
enum Role: string
{
    case Admin = 'admin';
    case Member = 'member';
    case Reader = 'reader';
}
