"""Requests and answers of the HTTP API, as msgspec structs; the OpenAPI document is made from them.

Unknown fields are refused by name. Times are RFC 3339 with a zone. What a value may be is what it
may be in the tables (`limits`). Reading version: v1, in the path.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from recsys.data_schemas import limits

API_VERSION: Final = "1.0"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SOUND: Final = {"pattern": f"^{limits.SOUND}$"}
"""The pattern as JSON Schema reads it."""

Id = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.ID_LENGTH,
        pattern=limits.SOUND_HERE,
        extra_json_schema=_SOUND,
    ),
]
"""An identifier of the caller's: a user, an item, an event, an impression."""
Word = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.TYPE_LENGTH,
        pattern=limits.SOUND_HERE,
        extra_json_schema=_SOUND,
    ),
]
"""A short name: an event type, a surface."""
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.NAME_LENGTH,
        pattern=limits.SOUND_HERE,
        extra_json_schema=_SOUND,
    ),
]
"""The name of an attribute or a column."""
Text = Annotated[str, Meta(max_length=limits.DESCRIPTION_LENGTH)]
Title = Annotated[str, Meta(min_length=1, max_length=limits.TITLE_LENGTH)]
Category = Annotated[str, Meta(max_length=limits.TEXT_LENGTH)]
Time = Annotated[datetime, Meta(tz=True)]
Number = Annotated[float, Meta(ge=-limits.NUMBER, le=limits.NUMBER)]
Scalar = bool | Number | Annotated[str, Meta(max_length=limits.TEXT_LENGTH)]
Attributes = Annotated[dict[Name, Scalar], Meta(max_length=limits.ATTRIBUTES)]
InlineAttributes = Annotated[dict[Name, Scalar | None], Meta(max_length=limits.ATTRIBUTES)]
"""Attributes of an inline item of one request: null is unknown."""
Tags = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=limits.TEXT_LENGTH)]],
    Meta(max_length=limits.TAG_COUNT),
]
# JSON knows 2 and 2.0 as one number, and so does a whole number here; msgspec's int does not.
Count = Annotated[float, Meta(ge=1, le=1000)]
Explain = bool | Annotated[float, Meta(ge=0, le=100)]
Version = Word


def to_microseconds(moment: datetime) -> int:
    """An aware datetime as µs since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def to_time(microseconds: int) -> datetime:
    """µs since 1970-01-01 UTC as an aware datetime."""
    return _EPOCH + timedelta(microseconds=microseconds)


class Input(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of what a caller sends."""


class NewItem(Input):
    """An item given with its text, known to the service or not."""

    item_id: Id
    title: Title
    description: Text | None = None
    tags: Tags = []
    category: Category | None = None
    created_at: Time | None = None
    attributes: InlineAttributes = {}


class PastEvent(Input):
    """One event of a history sent along; it is used for this answer and not stored."""

    item_id: Id
    event_type: Word = "view"
    timestamp: Time | None = None
    value: Number | None = None


History = Annotated[list[PastEvent], Meta(max_length=1_000)]


class RankRequest(Input):
    """Which of these items first, for this user?"""

    user_id: Id
    items: Annotated[
        list[Id | NewItem], Meta(min_length=1, extra_json_schema={"uniqueItems": True})
    ]
    """Ids, or items with their text; each id once."""
    context: Attributes = {}
    history: History | None = None
    """Events of this user the service does not know; they extend the stored ones."""
    explain: Explain = False
    """`true`, or how many of the first items to give reasons for."""
    model_version: Version | None = None
    as_of: Time | None = None
    """Rank as at this moment; needs the replay scope."""
    surface: Word | None = None
    """Where the list is shown, kept with its impression."""


class RecommendRequest(Input):
    """Which items of the whole catalogue, for this user?"""

    user_id: Id
    k: Count = 10
    filters: Annotated[
        dict[Name, Scalar | Annotated[list[Scalar], Meta(max_length=100)]], Meta(max_length=20)
    ] = {}
    """`category`, `tags` or an attribute: equal to a value, or to one of a list."""
    exclude: Annotated[list[Id], Meta(max_length=5_000)] = []
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """0: by score alone; 1: as unlike each other as possible."""
    caps: Annotated[dict[Name, Count], Meta(max_length=10)] | UnsetType = UNSET
    """`category` or a text attribute: items of one value at most; the service's own where absent."""
    explain: Explain = False
    keep_seen: bool = False
    """Whether items the user already acted on may be returned."""
    context: Attributes = {}
    history: History | None = None
    model_version: Version | None = None
    as_of: Time | None = None
    surface: Word | None = None


class EventIn(Input):
    """Something a user did with an item."""

    user_id: Id
    item_id: Id
    event_type: Word
    timestamp: Time | None = None
    """When it happened; the service's clock where absent."""
    value: Number | None = None
    impression_id: Id | None = None
    """The list in which the item was shown."""
    event_id: Id | None = None
    """Idempotency key; repeated, the event counts once."""


EventBatch = Annotated[list[EventIn], Meta(min_length=1, max_length=1_000)]
EventsBody = EventIn | EventBatch


class ItemBody(Input):
    """A new item, or what changes of a known one; fields left out keep their values."""

    title: Title | None = None
    description: Text | None = None
    tags: Tags | None = None
    category: Category | None = None
    created_at: Time | None = None
    available: bool | None = None
    attributes: Attributes | None = None


class Output(Struct, omit_defaults=True, kw_only=True):
    """Base of what is answered; fields at their default are left out."""


class Similar(Output):
    """An item of the user's history that is close in text."""

    item_id: str
    similarity: float
    title: str | None = None


class Reasons(Output):
    """Why an item stands where it stands."""

    families: dict[str, float] = {}
    """Share of the score by feature group (TreeSHAP), signed."""
    similar: list[Similar] = []
    sentence: dict[str, str] = {}
    """One sentence by language: `en`, `zh`."""


class RankedItem(Output):
    item_id: str
    score: float | None
    reasons: Reasons | None = None
    team: str | None = None
    """Version that contributed the item, in an interleaved list."""


class Experiment(Output):
    """The experiment the list took part in."""

    name: str
    arm: str


class RankedList(Output):
    """A ranked list, best first."""

    model_version: str
    impression_id: str
    """Name under which the list is logged; send it with the events it leads to."""
    items: list[RankedItem]
    unknown: list[str] = []
    """Ids asked for that nobody knows and that came without text."""
    degraded: list[str] = []
    """Parts that were missing or late, so that the answer is simpler than usual."""
    experiment: Experiment | None = None


class EventEntry(Output):
    event_id: str
    position: int
    """Place in the durable log."""
    duplicate: bool = False


class EventsAnswer(Output):
    """Given only after the events are durable."""

    accepted: int
    duplicates: int
    events: list[EventEntry]


class ItemAnswer(Output):
    item_id: str
    position: int


class ItemView(Output):
    """An item as the service knows it."""

    item_id: str
    title: str
    description: str | None = None
    tags: list[str] = []
    category: str | None = None
    created_at: str | None = None
    available: bool = True
    attributes: dict[str, Any] = {}


class ItemList(Output):
    items: list[ItemView]


class SimilarItem(Output):
    item_id: str
    score: float
    title: str | None = None


class SimilarList(Output):
    model_version: str
    item_id: str
    items: list[SimilarItem]


class StoredEvent(Output):
    item_id: str
    event_type: str
    timestamp: str
    value: float | None = None
    title: str | None = None


class UserView(Output):
    """What is stored about a user."""

    user_id: str
    events: list[StoredEvent] = []
    attributes: dict[str, Any] = {}


class Forgotten(Output):
    user_id: str
    position: int
    """Place of the tombstone in the log."""


class ModelView(Output):
    version: str
    role: str
    """`champion`, `pinned`, `shadow` or `available`."""


class ModelList(Output):
    champion: str
    models: list[ModelView]


class Health(Output):
    status: str
    model_version: str | None = None
    reason: str | None = None


class FieldError(Output):
    """One thing wrong with a request."""

    pointer: str
    """JSONPath of the field."""
    detail: str


class ProblemDetails(Output):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[FieldError] = []
