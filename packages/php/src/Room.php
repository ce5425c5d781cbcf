<?php

declare(strict_types=1);

namespace Switchboard;

/** A room, as the client's user sees it. */
final class Room extends Conversation
{
    /**
     * Creates the room; the user is its admin.
     *
     * @param list<string> $members the first members besides the user
     */
    public function create(?string $title = null, bool $public = false, array $members = []): Stored
    {
        return $this->client->create($this->id, $title, $public, $members);
    }

    public function join(): Stored
    {
        return $this->client->join($this->id);
    }

    public function leave(): Stored
    {
        return $this->client->leave($this->id);
    }

    public function invite(string $user, Role $role = Role::Member): Stored
    {
        return $this->client->invite($this->id, $user, $role);
    }

    public function remove(string $user): Stored
    {
        return $this->client->remove($this->id, $user);
    }

    public function role(string $user, Role $role): Stored
    {
        return $this->client->role($this->id, $user, $role);
    }

    public function rename(string $title): Stored
    {
        return $this->client->rename($this->id, $title);
    }
}
