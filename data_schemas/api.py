"""Requests and answers of the HTTP API, as msgspec structs; the OpenAPI document is made from them.

Unknown fields are refused by name. Times are RFC 3339 with a zone. What a value may be is what it
may be in the tables (`limits`). Reading version: v1, in the path.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

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
SESSION: Final = "session:"
"""A session is kept as the user of this name and its own id behind it."""
SessionId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.ID_LENGTH - len(SESSION),
        pattern=limits.SOUND_HERE,
        extra_json_schema=_SOUND,
    ),
]
"""An identifier of a visit of somebody who is not logged in."""
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
Vector = Annotated[list[Number], Meta(min_length=1, max_length=limits.VECTOR_LENGTH)]
# JSON knows 2 and 2.0 as one number, and so does a whole number here; msgspec's int does not.
Count = Annotated[float, Meta(ge=1, le=1000)]
SmallCount = Annotated[float, Meta(ge=1, le=100)]
Explain = bool | Annotated[float, Meta(ge=0, le=100)]
Version = Word
Filters = Annotated[dict[Name, Any], Meta(max_length=20)]
"""What items must meet; `recsys.filters` says what it may hold, and gives its schema."""
Fields = Annotated[list[Name], Meta(max_length=50)]
By = Literal["blend", "text", "bought_together"]
Window = Annotated[
    str,
    Meta(
        pattern=r"^(all|[1-9][0-9]{0,3}[mhdw])\Z",
        extra_json_schema={"pattern": "^(all|[1-9][0-9]{0,3}[mhdw])$"},
    ),
]
"""A stretch of time that ends now: `24h`, `7d`, `all`."""


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
    """Its id; one that is known is ranked by what is stored."""
    title: Title
    """What it is called."""
    description: Text | None = None
    """What it is."""
    tags: Tags = []
    """Words by which it is found."""
    category: Category | None = None
    """Its kind."""
    created_at: Time | None = None
    """When it came into being."""
    attributes: InlineAttributes = {}
    """Further columns by name; null is unknown."""
    vector: Vector | None = None
    """Its own vector, of an image say; as many numbers as the other items' have."""


class PastEvent(Input):
    """One event of a history sent along; it is used for this answer and not stored."""

    item_id: Id
    """The item."""
    event_type: Word = "view"
    """What was done with it: view, click, purchase …"""
    timestamp: Time | None = None
    """When; just now where absent."""
    value: Number | None = None
    """Stars of a rating, or a quantity."""


History = Annotated[list[PastEvent], Meta(max_length=1_000)]


Some = Annotated[list[Id], Meta(max_length=100)]
Place = Annotated[float, Meta(ge=1, le=1000)]


class Boost(Input, tag_field="do", tag="boost", kw_only=True):
    """Lift items."""

    name: Word
    """How the rule is called, in the answer and in the log."""
    by: Annotated[float, Meta(ge=-10, le=10)] = 1.0
    """By how many standard deviations of the candidates' scores; below 0 down."""
    filters: Filters = {}
    """What the items meet."""
    items: Some = []
    """Ids, of which those count that meet the filters; all items where there is none."""


class Bury(Input, tag_field="do", tag="bury", kw_only=True):
    """Put items behind all others."""

    name: Word
    """How the rule is called, in the answer and in the log."""
    filters: Filters = {}
    """What the items meet."""
    items: Some = []
    """Ids, of which those count that meet the filters; all items where there is none."""


class Pin(Input, tag_field="do", tag="pin", kw_only=True):
    """Put one item at one place."""

    name: Word
    """How the rule is called, in the answer and in the log."""
    item_id: Id
    """Which item; left out where it may not be recommended."""
    place: Place
    """Where, from 1."""


class Slot(Input, tag_field="do", tag="slot", kw_only=True):
    """Keep places for the best of some items: a promotion."""

    name: Word
    """How the rule is called, in the answer and in the log."""
    places: Annotated[list[Place], Meta(min_length=1, max_length=20)]
    """Which places, from 1."""
    filters: Filters = {}
    """What the items meet."""
    items: Some = []
    """Ids, of which those count that meet the filters; all items where there is none."""


Rule = Boost | Bury | Pin | Slot
Rules = Annotated[list[Rule], Meta(max_length=10)]


class RankRequest(Input, kw_only=True):
    """Which of these items first, for this person?"""

    user_id: Id | None = None
    """The person, where known; somebody new where neither this nor a session is given."""
    session_id: SessionId | None = None
    """The visit: its events count as the person's own."""
    items: Annotated[
        list[Id | NewItem], Meta(min_length=1, extra_json_schema={"uniqueItems": True})
    ]
    """Ids, or items with their text; each id once."""
    fields: Fields = []
    """Columns of the items to answer with: title, price …"""
    context: Attributes = {}
    """What is known of the situation: device, place on the page …"""
    history: History | None = None
    """Events of this user the service does not know; they extend the stored ones."""
    explain: Explain = False
    """`true`, or how many of the first items to give reasons for."""
    model_version: Version | None = None
    """The version that answers; the champion where absent."""
    as_of: Time | None = None
    """Rank as at this moment; needs the replay scope."""
    surface: Word | None = None
    """Where the list is shown, kept with its impression."""


class RecommendRequest(Input):
    """Which items of the whole catalogue, for this person?"""

    user_id: Id | None = None
    """The person, where known; somebody new where neither this nor a session is given."""
    session_id: SessionId | None = None
    """The visit: its events count as the person's own."""
    k: Count = 10
    """Items wanted, at most."""
    filters: Filters = {}
    """What the items must meet."""
    exclude: Annotated[list[Id], Meta(max_length=5_000)] = []
    """Items that must not be in the list."""
    fields: Fields = []
    """Columns of the items to answer with: title, price …"""
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """0: by score alone; 1: as unlike each other as possible."""
    caps: Annotated[dict[Name, Count], Meta(max_length=10)] | UnsetType = UNSET
    """`category` or a text attribute: items of one value at most; the service's own where absent."""
    rules: Rules = []
    """Wishes about this list, before those of the service: boost, bury, pin, slot."""
    explain: Explain = False
    """`true`, or how many of the first items to give reasons for."""
    keep_seen: bool = False
    """Whether items the user already acted on may be returned."""
    context: Attributes = {}
    """What is known of the situation: device, place on the page …"""
    history: History | None = None
    """Events of this user the service does not know; they extend the stored ones."""
    model_version: Version | None = None
    """The version that answers; the champion where absent."""
    as_of: Time | None = None
    """Recommend as at this moment; needs the replay scope."""
    surface: Word | None = None
    """Where the list is shown, kept with its impression."""


class SimilarRequest(Input):
    """Which items are like these?"""

    items: Annotated[list[Id], Meta(min_length=1, max_length=50)]
    """Ids; of several, the last weighs most."""
    k: SmallCount = 10
    """Items wanted, at most."""
    by: By = "blend"
    """All sources together, text alone, or what people do with both."""
    filters: Filters = {}
    """What the items must meet."""
    exclude: Annotated[list[Id], Meta(max_length=5_000)] = []
    """Items that must not be in the list."""
    fields: Fields = []
    """Columns of the items to answer with: title, price …"""


class PopularRequest(Input):
    """What does everybody go for now?"""

    window: Window = "all"
    """How far back: `24h`, `7d`, in whole buckets of the counters; `all` is everything known."""
    filters: Filters = {}
    """What the items must meet."""
    k: SmallCount = 10
    """Items wanted, at most."""
    fields: Fields = []
    """Columns of the items to answer with: title, price …"""


class EventIn(Input, kw_only=True):
    """Something a person did with an item; by a user, or by a visit."""

    user_id: Id | UnsetType = UNSET
    """Who; a session_id does where nobody is logged in."""
    session_id: SessionId | UnsetType = UNSET
    """The visit. With a user_id the event is the user's."""
    item_id: Id
    """With what."""
    event_type: Word
    """What: view, click, purchase …"""
    timestamp: Time | None = None
    """When it happened; the service's clock where absent."""
    value: Number | None = None
    """Stars of a rating, or a quantity."""
    impression_id: Id | None = None
    """The list in which the item was shown."""
    event_id: Id | None = None
    """Idempotency key; repeated, the event counts once."""


EventBatch = Annotated[list[EventIn], Meta(min_length=1, max_length=1_000)]
EventsBody = EventIn | EventBatch


class ItemBody(Input):
    """A new item, or what changes of a known one; fields left out keep their values."""

    item_id: Id | None = None
    """The id of the path, if at all."""
    title: Title | None = None
    """What it is called; a new item needs it."""
    description: Text | None = None
    """What it is."""
    tags: Tags | None = None
    """Words by which it is found."""
    category: Category | None = None
    """Its kind."""
    created_at: Time | None = None
    """When it came into being; now, of a new item."""
    available: bool | None = None
    """Whether it may be recommended."""
    attributes: Attributes | None = None
    """Further columns by name: numbers, texts, true or false."""
    vector: Vector | None = None
    """Its own vector, of an image say; as many numbers as the other items' have."""


class ItemChange(ItemBody, kw_only=True):
    """One of several items."""

    item_id: Id
    """Which one."""


ItemBatch = Annotated[list[ItemChange], Meta(min_length=1, max_length=500)]


class ImpressionIn(Input, kw_only=True):
    """A list that was made and shown elsewhere."""

    user_id: Id | UnsetType = UNSET
    """To whom; a session_id does where nobody is logged in."""
    session_id: SessionId | UnsetType = UNSET
    """The visit. With a user_id the list is the user's."""
    item_ids: Annotated[list[Id], Meta(min_length=1, max_length=2_000)]
    """Items in the order in which they were shown."""
    impression_id: Id | None = None
    """Name of the list; repeated, it counts once."""
    timestamp: Time | None = None
    """When it was shown; the service's clock where absent."""
    surface: Word | None = None
    """Where it was shown."""
    context: Attributes = {}
    """What was known of the situation."""


ImpressionBatch = Annotated[list[ImpressionIn], Meta(min_length=1, max_length=100)]
ImpressionsBody = ImpressionIn | ImpressionBatch


class UserBody(Input):
    """What changes of a person; attributes left out keep their values."""

    attributes: Attributes
    """Columns by name: numbers, texts, true or false."""


class MergeRequest(Input):
    """Whose visit it was."""

    session_id: SessionId
    """The visit whose events become the user's."""


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
    """One sentence by language: `en`, `zh`, and what `serving.sentences` adds."""
    fact: str = ""
    """What the sentence says: `liked`, `popular_in` …; `nothing` where nothing could be named."""


class RankedItem(Output):
    item_id: str
    score: float | None
    reasons: Reasons | None = None
    team: str | None = None
    """Version that contributed the item, in an interleaved list."""
    fields: dict[str, Any] = {}
    """The columns asked for; null where nothing is known."""
    rule: str | None = None
    """The rule that moved the item."""


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


class ItemsAnswer(Output):
    """Given only after all items are durable."""

    items: list[ItemAnswer]


class ImpressionsAnswer(Output):
    """Given only after the lists are durable."""

    impression_ids: list[str]
    duplicates: int = 0


class UserAnswer(Output):
    """Given only after the change is durable."""

    user_id: str
    position: int
    """Place in the durable log."""


class Merged(Output):
    user_id: str
    session_id: str
    events: int
    """How many became the user's now; 0 where they were already."""


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
    """The cosine of the texts, by text; else 1 for the first item of every source."""
    title: str | None = None
    fields: dict[str, Any] = {}


class SimilarList(Output):
    model_version: str
    items: list[SimilarItem]
    item_id: str | None = None
    """The item of the path, where it was one."""
    unknown: list[str] = []
    """Ids asked about that nobody knows."""
    degraded: list[str] = []
    """Parts that were missing or late, so that the answer is simpler than usual."""


class PopularItem(Output):
    item_id: str
    score: float
    """Events that speak for it in the window, each by the weight of its type."""
    fields: dict[str, Any] = {}


class PopularList(Output):
    model_version: str
    window: str
    """The window that was counted."""
    items: list[PopularItem]


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
    opted_out: bool = False
    degraded: list[str] = []
    """`wrong_shard`: another worker keeps the user; what stands here says nothing."""


class Forgotten(Output):
    user_id: str
    position: int
    """Place of the tombstone in the log."""


class OptOut(Output):
    user_id: str
    opted_out: bool
    """Whether the user is answered as somebody new, and learned from no more."""
    position: int
    """Place of the wish in the log."""


class ModelView(Output):
    version: str
    role: str
    """`champion`, `pinned`, `shadow` or `available`."""


class ModelList(Output):
    champion: str
    models: list[ModelView]


class OperatorView(Output):
    """What an operator looks at, as plain values; no id of a person."""

    workspace: dict[str, Any]
    """Champion and history, nights, stages, drift, parity, live lists, experiments, sizes."""
    service: dict[str, Any]
    """Latency by route, refusals, degraded answers and events of all workers."""
    log: dict[str, Any]
    """The log's end, how far this worker's state is behind it, and why it is refused."""


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
