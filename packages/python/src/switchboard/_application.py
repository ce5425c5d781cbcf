"""The calls that concern the application, not one of its users."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .types import (
    ImportLine,
    ImportResult,
    ListedBan,
    ListedReport,
    ListedRoom,
    ListedUser,
    Message,
    ProfileChange,
    SendResult,
    Stored,
    UserUnread,
    Webhook,
    WebhookAnswer,
)

# These calls have no `as`.
OF_THE_APPLICATION = frozenset(
    {
        "add_webhook",
        "ban",
        "bans",
        "delete_room",
        "feed",
        "import",
        "list_rooms",
        "list_users",
        "list_webhooks",
        "moderate/history",
        "pause_webhook",
        "profiles",
        "remove_webhook",
        "rename_user",
        "replay_webhook",
        "reports",
        "resolve",
        "resume_webhook",
        "revoke",
        "rotate_webhook",
        "test_webhook",
        "unread",
    }
)
# These are not repeated, because each makes another secret.
ONCE = frozenset({"add_webhook", "rotate_webhook"})


class ApplicationCalls:
    """A part of `Client`. The calls need an API key."""

    def command(self, name: str, /, **fields: Any) -> dict[str, Any]:
        """Executes any command."""
        raise NotImplementedError

    def revoke(self, user: str, *, replace: bool = False) -> None:
        """Logs a user out everywhere: tokens made up to now become invalid. The key needs the scope `moderate`.

        `replace` revokes as of now even if an earlier call stored a later time, by a clock that was wrong.
        """
        self.command("revoke", user=user, replace=True if replace else None)

    def ban(
        self,
        user: str,
        *,
        until: str | None = None,
        reason: str | None = None,
        note: str | None = None,
        shadow: bool = False,
    ) -> None:
        """Bans a user from the installation until a time (RFC 3339), or for good. The key needs the scope `moderate`.

        The user's connections are closed, and the user reads the `reason`; `note` is for moderators. With `shadow` the user comes
        in all the same, and what they send is held; then there is no `reason`.
        """
        self.command("ban", user=user, until=until, reason=reason, note=note, shadow=shadow or None)

    def unban(self, user: str) -> None:
        """Ends a user's ban. The key needs the scope `moderate`."""
        self.command("ban", user=user, on=False)

    def bans(self) -> Iterator[ListedBan]:
        """The bans that hold now, by the users' numbers. The key needs the scope `moderate`."""
        yield from self._listed("bans", "bans")

    def reports(self, *, state: str | None = None, user: str | None = None) -> Iterator[ListedReport]:
        """What users have reported, by number: `open`, `claimed` or `done`, or all; of `user`, or of all users.

        The key needs the scope `moderate`.
        """
        yield from self._listed("reports", "reports", state=state, user=user)

    def resolve(
        self,
        report: str,
        action: str,
        *,
        until: str | None = None,
        note: str | None = None,
        tell: str | None = None,
        by: str | None = None,
    ) -> None:
        """Claims or decides a report. The key needs the scope `moderate`.

        `action` is `claim`, `none`, `delete`, `ban`, `silence` or `remove`, of a held message also `release` or `reject`; `until` is the end of a ban or a silence. The author reads `tell`, moderators `note`. `by` names the moderator; without it, the name of the key does.
        """
        named = {} if by is None else {"as": by}
        self.command("resolve", report=report, action=action, until=until, note=note, tell=tell, **named)

    def moderate_history(
        self, conversation: str, around: int, reason: str, *, by: str | None = None
    ) -> list[Message]:
        """The messages around one, for a moderator. The audit log notes it, with the reason. The key needs the scope `moderate`.

        `by` names the moderator; without it, the name of the key does.
        """
        named = {} if by is None else {"as": by}
        page = self.command("moderate/history", conversation=conversation, around=around, reason=reason, **named)
        messages: list[Message] = page["messages"]
        return messages

    def profiles(self, profiles: Sequence[ProfileChange]) -> None:
        """Changes the profiles of up to 1,000 users, of all or of none. The key needs the scope `people`.

        What a profile does not name stays as it was, and None removes it. A user whose `active` is false cannot sign in.
        """
        self.command("profiles", profiles=list(profiles))

    def send_many(
        self, users: Sequence[str], key: str, text: str | None = None, *, data: Mapping[str, Any] | None = None
    ) -> list[SendResult]:
        """Sends a direct message to each of up to 1,000 users, in the name of the client's user. The key needs the scope `act`.

        A call with the same `key` (at most 63 characters) sends only what was not stored. A refused recipient has an `error`.
        """
        results: list[SendResult] = self.command("send_many", users=list(users), key=key, text=text, data=data)["results"]
        return results

    def rename_user(self, user: str, to: str) -> None:
        """Gives a user another id, one that was never used. The old id is never given again. The key needs the scope `admin`."""
        self.command("rename_user", user=user, to=to)

    def delete_room(self, conversation: str, by: str | None = None) -> Stored:
        """Deletes a room for all of its members. Its id is never given again. `by` is the user in whose name, without it the id that
        is the key's name. The key needs the scope `admin`."""
        return Stored.of(self.command("delete_room", conversation=conversation, **{"as": by}))

    def unread(self, users: Sequence[str]) -> list[UserUnread]:
        """What up to 1,000 users have not read, each over the 200 latest conversations. The key needs the scope `people`."""
        counts: list[UserUnread] = self.command("unread", users=list(users))["users"]
        return counts

    def list_users(self, *, match: str | None = None, active: bool | None = None) -> Iterator[ListedUser]:
        """All users, by number; `match` is a pattern of ids. The key needs the scope `people`."""
        yield from self._listed("list_users", "users", match=match, active=active)

    def list_rooms(
        self, *, match: str | None = None, member: str | None = None, public: bool | None = None
    ) -> Iterator[ListedRoom]:
        """All rooms, by number; `match` is a pattern as `#support-*`. The key needs the scope `people`."""
        yield from self._listed("list_rooms", "rooms", match=match, member=member, public=public)

    def _listed(self, call: str, items: str, **filters: Any) -> Iterator[Any]:
        more, after = True, 0
        while more:
            page = self.command(call, after=after, **filters)
            yield from page[items]
            more, after = page["more"], page["next"]

    def import_lines(self, lines: Sequence[ImportLine]) -> ImportResult:
        """Stores up to 1,000 lines of another system's history, all of them or none; see "Moving in" in docs/people.md.

        The lines are in the order of their times. What was stored before is a duplicate. The key needs the scope `admin`.
        """
        answer = self.command("import", lines=list(lines))
        return {"stored": answer["stored"], "duplicates": answer["duplicates"]}

    def add_webhook(
        self,
        name: str,
        url: str,
        *,
        types: Sequence[str] = (),
        only: Sequence[str] = (),
        start: str = "now",
        headers: Mapping[str, str] | None = None,
        imported: bool = False,
    ) -> str:
        """Sends the entries of the feed to a URL, and returns the secret that signs the requests.

        This call and all others about webhooks need a key with the scope `admin`. `types` are the types of entries, without it all
        but `audit.*`; `only` the conversations, as `#support-*`; `start` is `now`, `0`, or a cursor of the feed; `imported` also
        sends what was imported.

        The call is not repeated after a failure, because the secret is shown once. If a failure leaves it open whether there is a
        webhook, `rotate_webhook` makes another secret.
        """
        fields = {"types": list(types), "only": list(only), "from": start, "headers": dict(headers or {}), "imported": imported}
        return str(self.command("add_webhook", name=name, url=url, **fields)["secret"])

    def list_webhooks(self) -> list[Webhook]:
        """All webhooks."""
        webhooks: list[Webhook] = self.command("list_webhooks")["webhooks"]
        return webhooks

    def pause_webhook(self, name: str) -> None:
        """Sends nothing more until it is resumed."""
        self.command("pause_webhook", name=name)

    def resume_webhook(self, name: str) -> None:
        """Goes on where it was paused, and tries an endpoint at fault at once."""
        self.command("resume_webhook", name=name)

    def remove_webhook(self, name: str) -> None:
        """Removes a webhook."""
        self.command("remove_webhook", name=name)

    def test_webhook(self, name: str) -> WebhookAnswer:
        """Sends an entry of the type `webhook.test`, and returns how it ended."""
        answer: WebhookAnswer = self.command("test_webhook", name=name)["answer"]
        return answer

    def rotate_webhook(self, name: str, *, overlap: int = 0) -> str:
        """Gives a webhook another secret, and returns it. `overlap`: milliseconds that the secret of before signs as well.

        The call is not repeated after a failure, because each makes another secret.
        """
        return str(self.command("rotate_webhook", name=name, overlap=overlap)["secret"])

    def replay_webhook(self, name: str, *, start: str | None = None, parked: bool = False) -> None:
        """Sends entries again: those after `start` (a cursor of the feed, `0`, or a time), or those that are parked."""
        self.command("replay_webhook", name=name, parked=parked, **{"from": start})
