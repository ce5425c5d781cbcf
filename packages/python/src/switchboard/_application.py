"""The calls that concern the application, not one of its users."""

from collections.abc import Mapping, Sequence
from typing import Any

from .types import ProfileChange, Webhook, WebhookAnswer

# These calls have no `as`.
OF_THE_APPLICATION = frozenset(
    {
        "add_webhook",
        "feed",
        "list_webhooks",
        "pause_webhook",
        "profiles",
        "remove_webhook",
        "replay_webhook",
        "resume_webhook",
        "revoke",
        "rotate_webhook",
        "test_webhook",
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

    def profiles(self, profiles: Sequence[ProfileChange]) -> None:
        """Changes the profiles of up to 1,000 users, of all or of none. The key needs the scope `people`.

        What a profile does not name stays as it was, and None removes it. A user whose `active` is false cannot sign in.
        """
        self.command("profiles", profiles=list(profiles))

    def add_webhook(
        self,
        name: str,
        url: str,
        *,
        types: Sequence[str] = (),
        only: Sequence[str] = (),
        start: str = "now",
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Sends the entries of the feed to a URL, and returns the secret that signs the requests.

        This call and all others about webhooks need a key with the scope `admin`. `types` are the types of entries, without it all
        but `audit.*`; `only` the conversations, as `#support-*`; `start` is `now`, `0`, or a cursor of the feed.

        The call is not repeated after a failure, because the secret is shown once. If a failure leaves it open whether there is a
        webhook, `rotate_webhook` makes another secret.
        """
        fields = {"types": list(types), "only": list(only), "from": start, "headers": dict(headers or {})}
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
