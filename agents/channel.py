"""What the send agent needs of the world: a channel to send on and a ledger to remember by.

Protocols and their values only; `app/` implements them.
"""

from typing import Literal, Protocol

from msgspec import Struct

from agents.holds import Holds
from agents.limits import Limits
from agents.outcomes import Held, Outcome, Refused, Skipped
from streams.records import Account, Channel, Delivery, Notification


class StoreAwayError(Exception):
    """The shared store (Redis) can't be asked now. Nothing was learnt; ask again later."""


class Bar(Struct, frozen=True, gc=False):
    """A mark in the store under which a message isn't sent but skipped."""

    key: str
    reason: str


class Message(Struct, frozen=True, gc=False):
    """A command turned into what the provider is sent."""

    message_id: str
    """The provider drops a second message under the same one."""
    recipient: str
    scope: str
    """What a `Held` with this scope stops: WeChat's template."""
    body: bytes
    bar: Bar | None = None


class Claim(Struct, frozen=True, gc=False):
    """What the store keeps of a message that was taken, so that the provider's later word finds
    it; or the word finds nothing yet and waits for it."""

    key: str
    value: bytes
    kept_s: int
    word_key: str
    """Where a word that came first waits: a `LaterWord` in msgpack."""


class LaterWord(Struct, frozen=True, array_like=True):
    """What the provider said about a message after it had taken it."""

    status: Literal["delivered", "undelivered"]
    error: str | None = None


class SendingChannel(Protocol):
    """One way to reach a customer. Expected failures are outcomes; an exception is a bug."""

    name: Channel
    holds: Holds
    """What stops everybody who sends by it: several agents may."""
    limits: Limits
    """Which recipients take no more for a while."""
    doubt_limit_s: float | None
    """How long the provider is known to drop a repeated `message_id`; None: for good."""

    def prepare(
        self, command: Notification, account: Account | None
    ) -> Message | Skipped | Refused:
        """Return what would be sent. No attempt: nothing goes to the provider."""

    def pause_s(self, message: Message) -> float:
        """Return how long this recipient must be left alone, and count the message as sent then."""

    async def ready(self, message: Message) -> Held | None:
        """Wait, however long, until this message may be sent at once: for its place in the pace,
        and for what it is sent with. Or return why nothing can be sent.

        Nothing goes to the provider. Who is cancelled meanwhile takes nobody's place.
        """

    async def send(self, message: Message, *, is_repeat: bool) -> Outcome:
        """Send once what is ready. `is_repeat`: an earlier attempt may have been taken.

        Waits for nothing but the provider, and for it within the channel's own time limits. May be
        cancelled at any point: the message is then in doubt.
        """

    def claim(
        self, command: Notification, key: bytes | None, attempts: int, provider_id: str
    ) -> Claim | None:
        """Return what notes whose message `provider_id` is, for the provider's later word; None:
        the provider says nothing later."""


class Entry(Struct, omit_defaults=True):
    """What the ledger knows of one notification."""

    coordinates: str
    """Topic, partition and offset of the record that brought it."""
    attempts: int = 0
    strikes: int = 0
    """Attempts whose outcome allowed only so many."""
    doubt_since: int | None = None
    """Instant of the first attempt that the provider may have taken; None: it took none."""
    not_before: int | None = None
    """Instant of the next attempt."""
    deliveries: list[Delivery] | None = None
    """How it ended; None: it hasn't."""
    replaces: str | None = None
    """Coordinates of the record that was given up before this one was sent again."""
    life: str = ""
    """Whose first words on it these are: a name that nobody else has, nor had before."""
    pause_s: float | None = None
    """How long the pause before the next attempt is in all. None: entries of 0.1.0 don't say."""

    @property
    def has_failed(self) -> bool:
        """Whether it was given up."""
        return self.deliveries is not None and self.deliveries[-1].status == "failed"


class Ledger(Protocol):
    """What was begun and how it ended, by notification id. Each call may raise StoreAwayError."""

    async def read(self, notification_id: str) -> Entry | None:
        """Return what is known of a notification; None: nothing."""

    async def write(
        self, notification_id: str, entry: Entry, *, is_first: bool = False, bar: Bar | None = None
    ) -> Entry | Bar | None:
        """Remember an unfinished notification.

        Writes nothing where another record's entry or a finished one stands, and returns that;
        the entry that this one `replaces` is no hindrance. `is_first`: nor where any entry stands
        that this one's `life` didn't write. Nor under a `bar` that stands, which is returned.
        """

    async def finish(
        self, notification_id: str, entry: Entry, claim: Claim | None = None
    ) -> LaterWord | None:
        """Remember how a notification ended, and whose message it was.

        Where the provider's word on the message came first, that is returned, and the end isn't
        written: it lacks the word. May be repeated.
        """
