// The conversations that the client knows, each once, under all of its names.

import { conversationId, checkName } from "./names.js";
import type { UserId } from "./protocol.js";
import type { Room } from "./room.js";

export class RoomDirectory {
  #rooms = new Map<string, Room>();
  #createRoom: (name: string) => Room;
  #currentUser: () => UserId | undefined;

  constructor(me: () => UserId | undefined, make: (name: string) => Room) {
    this.#currentUser = me;
    this.#createRoom = make;
  }

  /** Returns the conversation with this name. Throws `invalid` if the name is not valid. */
  get(name: string): Room {
    checkName(name, this.#currentUser());
    return this.getOrCreate(name);
  }

  /** Returns the conversation with a name that came from the server, which need not be checked. */
  getOrCreate(name: string): Room {
    const id = conversationId(name, this.#currentUser());
    let room = this.#rooms.get(id);
    if (!room) this.#rooms.set(id, (room = this.#createRoom(id)));
    return room;
  }

  /** Handles that the user is known: `@bob` is now `@alice:bob`. If the app has used both names, they are merged. */
  onUser(): void {
    for (const [name, room] of [...this.#rooms]) {
      const id = conversationId(name, this.#currentUser());
      if (id === name) continue;
      this.#rooms.delete(name);
      const other = this.#rooms.get(id);
      if (other) room.mergeInto(other);
      else this.#rooms.set(id, room);
    }
  }

  [Symbol.iterator](): Iterator<Room> {
    return this.#rooms.values();
  }
}
