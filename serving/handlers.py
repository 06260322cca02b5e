"""What each operation does. Decoding, limits and errors are the app's; ranking is `Ranking`'s."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from threading import Event
from typing import Any, cast

import msgspec
from starlette.responses import Response

from recsys.data_schemas import api
from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.data_schemas.shards import WRONG_SHARD
from recsys.filters import columns_of, parse
from recsys.query import RankingQuery
from recsys.serving import openapi
from recsys.serving import telemetry as metrics
from recsys.serving.asgi import MsgspecResponse, Request, invalid
from recsys.serving.body_rules import (
    EventTypes,
    doer_of,
    known_attributes,
    person_of,
    require_attributes,
    require_times,
    require_vector,
    times_of,
)
from recsys.serving.clock import Clock
from recsys.serving.item_fields import fields_of, iso, require_fields
from recsys.serving.keys import KeyRing
from recsys.serving.loaded_versions import Versions
from recsys.serving.logs import log
from recsys.serving.problems import Problem, unavailable
from recsys.serving.ranking import Ranking
from recsys.serving.released_model import ModelProvider, ReleasedModel
from recsys.serving.settings import ServiceSettings
from recsys.storage.eventlog import (
    Entry,
    EventLog,
    ImpressionBuffer,
    LogDamaged,
    LogUnavailable,
)
from recsys.storage.eventlog.log import event_write, item_write, opt_out_write

FUTURE_TOLERANCE = 300 * 1_000_000
"""µs an event's own time may lie ahead of the service's clock (assumed: skew of clients)."""
_rank = msgspec.json.Decoder(api.RankRequest)
_recommend = msgspec.json.Decoder(api.RecommendRequest)
_events = msgspec.json.Decoder(api.EventsBody)
_item = msgspec.json.Decoder(api.ItemBody)
_STANDARD = frozenset(c.ITEM_STANDARD)


class Handlers:
    """The operations of one worker; each takes a Request and gives a Response.

    Args:
        versions: releases in service.
        ranking: answers ranking and recommendation requests.
        event_log: the durable log.
        impressions: lists that wait to be written.
        clock: the time of the service.
        provider: finds and opens releases.
        settings: limits of the service.
        keys: who may call; None where everybody on this machine may.
        draining: set when the worker takes no new requests.
    """

    def __init__(
        self,
        versions: Versions,
        ranking: Ranking,
        event_log: EventLog,
        impressions: ImpressionBuffer,
        clock: Clock,
        provider: ModelProvider,
        settings: ServiceSettings,
        keys: KeyRing | None,
        draining: Event,
    ) -> None:
        self._versions, self._ranking, self._log = versions, ranking, event_log
        self._impressions, self._clock, self._provider = impressions, clock, provider
        self._settings, self._keys = settings, keys
        self._document: tuple[tuple[dict[str, str], int], Response] | None = None
        self._types = EventTypes()
        self._draining = draining
        self._rules: tuple[str, list[api.Rule]] | None = None
        """The service's rules as the champion of a version takes them."""

    # ranking

    async def rank(self, request: Request) -> Response:
        asked = await self._json(request, _rank)
        require_times(times_of(asked.history or (), "$.history"))
        known, new = self._split(asked.items)
        user, session = person_of(asked)
        ask = RankingQuery(
            user_id=user,
            session=session,
            now=self._moment(asked.as_of, request),
            items=known,
            new_items=new,
            history=_past(asked.history),
            k=len(known),
            explain=self._explained(asked.explain),
            keep_seen=True,
            context=asked.context,
            deadline=self._deadline(request),
        )
        return await self._ranked(ask, asked)

    async def recommend(self, request: Request) -> Response:
        asked = await self._json(request, _recommend)
        k = whole_number(asked.k, "k")
        require_times(times_of(asked.history or (), "$.history"))
        user, session = person_of(asked)
        ask = RankingQuery(
            user_id=user,
            session=session,
            now=self._moment(asked.as_of, request),
            history=_past(asked.history),
            k=k,
            filters=asked.filters,
            exclude=asked.exclude,
            diversity=asked.diversity,
            caps=self._caps(asked),
            rules=[*_whole_places(asked.rules), *self._shop_rules()],
            explain=min(k, self._explained(asked.explain)),
            keep_seen=asked.keep_seen,
            context=asked.context,
            deadline=self._deadline(request),
        )
        return await self._ranked(ask, asked)

    async def _ranked(
        self, ask: RankingQuery, asked: api.RankRequest | api.RecommendRequest
    ) -> Response:
        replay = asked.as_of is not None
        if asked.fields:
            require_fields(asked.fields, self._versions.champion())
        ranked = await self._ranking.answer(ask, asked.model_version, asked.surface, replay)
        for item in ranked.items if asked.fields else ():
            item.fields = fields_of(
                self._versions.champion(), item.item_id, asked.fields, ask.new_items
            )
        return MsgspecResponse(ranked)

    def _split(
        self, items: Sequence[str | api.NewItem]
    ) -> tuple[list[str], dict[str, dict[str, Any]]]:
        """Ids in order, and the columns of those given with text."""
        limit = self._settings.max_candidates
        if len(items) > limit:
            detail = f"{len(items)} candidates; at most {limit} are ranked in one request."
            raise Problem(422, detail, [("$.items", f"at most {limit}")])
        ids = [item if isinstance(item, str) else item.item_id for item in items]
        if len(set(ids)) != len(ids):
            seen: set[str] = set()
            twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            detail = f"Candidate {twice!r} is given more than once."
            raise Problem(422, detail, [("$.items", f"{twice!r} twice")])
        given = [item for item in items if isinstance(item, api.NewItem)]
        if given:
            # Without attributes of another type; a service without a model has said so by now.
            model = self._versions.champion()
            for item in given:
                item.attributes = known_attributes(model, item.attributes)
                require_vector(model, item.item_id, item.vector, "$.items")
        return ids, {item.item_id: _columns(item.item_id, item) for item in given}

    def _moment(self, as_of: datetime | None, request: Request) -> int:
        if as_of is None:
            return self._clock.now()
        require_times([("$.as_of", as_of)])
        if "replay" not in request.scopes:
            raise Problem(403, "`as_of` needs a key with the scope `replay`.")
        return api.to_microseconds(as_of)

    def _caps(self, asked: api.RecommendRequest) -> Mapping[str, int]:
        """The request's caps, or the service's where it names none."""
        if asked.caps is msgspec.UNSET:
            return self._settings.caps
        return {name: whole_number(most, f"caps.{name}") for name, most in asked.caps.items()}

    def _shop_rules(self) -> Sequence[api.Rule]:
        """The service's own rules; one that the champion's items do not allow is left out and logged."""
        if not self._settings.rules:
            return ()
        model = self._versions.champion()
        if self._rules is None or self._rules[0] != model.version:
            columns = columns_of(model.attribute_kinds)
            self._rules = model.version, [r for r in self._settings.rules if _fits(r, columns)]
        return self._rules[1]

    def _explained(self, explain: bool | float) -> int:
        if explain is True:
            return self._settings.explain_items
        return whole_number(explain, "explain")

    def _deadline(self, request: Request) -> float:
        """Optional parts are dropped when 80 % of the budget is gone; the rest is for the answer."""
        return request.arrived + self._settings.timeout_ms / 1000 * 0.8

    # events and items

    async def post_events(self, request: Request) -> Response:
        body = await self._json(request, cast(Any, _events), frozenset({"key"}))
        events: list[api.EventIn] = body if isinstance(body, list) else [body]
        require_times(
            times_of(events, "$") if isinstance(body, list) else [("$.timestamp", body.timestamp)]
        )
        now = self._stamp()
        rows = [self._event(event, now) for event in events]
        writes = [event_write(row) for row in rows]
        model = self._versions.champion() if self._versions.ready else None
        fresh = self._types.require(model, events)
        try:
            entries = await self._durable(lambda: self._log.submit(writes))
        except BaseException:
            self._types.give_back(fresh)
            raise
        await self._fold(entries)
        duplicates = sum(not entry.fresh for entry in entries)
        metrics.EVENTS.labels(outcome="accepted").inc(len(entries) - duplicates)
        metrics.EVENTS.labels(outcome="duplicate").inc(duplicates)
        answer = api.EventsAnswer(
            accepted=len(entries) - duplicates,
            duplicates=duplicates,
            events=[
                api.EventEntry(
                    event_id=write.payload[c.EVENT_ID],
                    position=entry.position,
                    duplicate=not entry.fresh,
                )
                for write, entry in zip(writes, entries, strict=True)
            ],
        )
        return MsgspecResponse(answer)

    def _event(self, event: api.EventIn, now: int) -> dict[str, Any]:
        return {
            c.USER_ID: doer_of(event),
            c.ITEM_ID: event.item_id,
            c.EVENT_TYPE: event.event_type,
            c.TIMESTAMP: self._happened(event.timestamp, now),
            c.VALUE: event.value,
            c.IMPRESSION_ID: event.impression_id,
            c.EVENT_ID: event.event_id,
            c.RECEIVED_AT: now,
        }

    def _happened(self, timestamp: datetime | None, now: int) -> int:
        """µs of a time that a caller gave, or now.

        Raises:
            Problem: it lies in the future (409).
        """
        at = now if timestamp is None else api.to_microseconds(timestamp)
        if at > now + FUTURE_TOLERANCE:
            clock = api.to_time(now).isoformat()
            detail = f"The timestamp lies in the future: the service's clock says {clock}."
            raise Problem(409, detail, [("$.timestamp", "in the future")])
        return at

    async def put_item(self, request: Request) -> Response:
        item_id = identifier(request, "item_id")
        body = await self._json(request, _item)
        known = self._versions.champion().item(item_id)
        now = self._stamp()
        row = self._item_row(item_id, body, known, now, "$", self._kinds())
        entries = await self._durable(
            lambda: self._log.submit([item_write({**row, c.RECEIVED_AT: now})])
        )
        await self._fold(entries)
        return MsgspecResponse(api.ItemAnswer(item_id=item_id, position=entries[0].position))

    def _item_row(
        self,
        item_id: str,
        body: api.ItemBody,
        known: dict[str, Any] | None,
        now: int,
        where: str,
        kinds: dict[str, str],
    ) -> dict[str, Any]:
        """A new or changed item, whole, as the log keeps it.

        Args:
            item_id: which one.
            body: what changes of it.
            known: what is known of it; None for a new one.
            now: µs, when a new one came into being.
            where: place of the body in the call.
            kinds: kind of each attribute by name; those of the item are added.

        Raises:
            Problem: the body names another item, or a new one has no title (409); an attribute
                cannot be one (422).
        """
        if body.item_id is not None and body.item_id != item_id:
            detail = f"The body names item {body.item_id!r}, the path {item_id!r}."
            raise Problem(409, detail[:2000], [(f"{where}.item_id", "another item")])
        if known is None and body.title is None:
            detail = f"Item {item_id!r} is new, so it needs a title."
            raise Problem(409, detail, [(f"{where}.title", "missing")])
        base = _known(known) if known else {c.CREATED_AT: now, c.AVAILABLE: True}
        columns = _columns(item_id, body)
        require_attributes(kinds, body.attributes or {}, where=where)
        require_vector(self._versions.champion(), item_id, body.vector, f"{where}.vector")
        return {**base, **columns}

    def _kinds(self) -> dict[str, str]:
        """Kind that each attribute of an item must have."""
        return dict(self._versions.champion().taken_kinds)

    def _stamp(self) -> int:
        """The time of receipt of what is to be kept.

        Raises:
            Problem: the clocks disagree, so that it would be wrong (503).
        """
        trouble = self._clock.trouble
        if trouble is not None:
            metrics.EVENTS.labels(outcome="refused").inc()
            raise unavailable(f"{trouble}; nothing of this call was accepted.", 10)
        return self._clock.now()

    async def _durable(self, submit: Callable[[], "Future[list[Entry]]"]) -> list[Entry]:
        """Wait for the commit.

        Raises:
            Problem: the log does not answer (503); nothing of the call was accepted.
        """
        try:
            return await asyncio.wrap_future(submit())
        except LogUnavailable as error:
            metrics.LOG_ERRORS.inc()
            metrics.EVENTS.labels(outcome="refused").inc()
            raise unavailable(f"{error.what}; nothing of this call was accepted.", 2) from None

    async def _fold(self, entries: Iterable[Entry]) -> None:
        """See the writes in this worker's state; they are durable whether that works or not.

        Raises:
            Problem: the log turned out to be damaged (503); what was written there may be lost.
        """
        try:
            await self._versions.follower.catch_up(max(entry.position for entry in entries))
        except LogDamaged as error:
            raise unavailable(f"{error.what}; repeat the call with the same event_id.", 2) from None
        except LogUnavailable as error:
            metrics.LOG_ERRORS.inc()
            log("error", "own_write_not_folded", error=error.what)

    # reading

    async def find_items(self, request: Request) -> Response:
        query = request.query(frozenset({"query", "limit"}))
        text = query.get("query", "")
        if len(text) > 200:
            raise Problem(
                422, "`query` is longer than 200 characters.", [("query.query", "length")]
            )
        limit = whole(query, "limit", 20)
        engine = self._versions.champion()
        found = await asyncio.to_thread(engine.search, text, limit)
        views = [(item_id, engine.item(item_id)) for item_id in found]
        return MsgspecResponse(
            api.ItemList(items=[_view(item_id, row) for item_id, row in views if row is not None])
        )

    async def get_item(self, request: Request) -> Response:
        item_id = identifier(request, "item_id")
        request.query(frozenset())
        row = self._versions.champion().item(item_id)
        if row is None:
            raise Problem(404, f"There is no item {item_id!r}.")
        return MsgspecResponse(_view(item_id, row))

    async def get_user(self, request: Request) -> Response:
        user_id = identifier(request, "user_id")
        request.query(frozenset())
        engine = self._versions.champion()
        stored = engine.user(user_id)
        out = user_id in self._settings.opted_out
        if not self._settings.keeps(user_id):
            metrics.DEGRADED.labels(reason=WRONG_SHARD).inc()
            view = api.UserView(user_id=user_id, opted_out=out, degraded=[WRONG_SHARD])
            return MsgspecResponse(view)
        if stored is None and not out:
            raise Problem(404, "Nothing is stored about this user.")
        stored = stored or {}
        events = [_stored(event, engine) for event in stored.get("events", [])]
        attributes = stored.get("attributes") or {}
        return MsgspecResponse(
            api.UserView(user_id=user_id, events=events, attributes=attributes, opted_out=out)
        )

    async def delete_user(self, request: Request) -> Response:
        user_id = identifier(request, "user_id")
        request.query(frozenset())
        self._versions.champion()
        self._impressions.forget_user(user_id, c.USER_ID)
        now = self._stamp()
        entries = await self._durable(lambda: self._log.submit_forget(user_id, now))
        await self._fold(entries)
        return MsgspecResponse(api.Forgotten(user_id=user_id, position=entries[0].position))

    async def opt_out(self, request: Request) -> Response:
        return await self._wished(request, True)

    async def opt_in(self, request: Request) -> Response:
        return await self._wished(request, False)

    async def _wished(self, request: Request, out: bool) -> Response:
        """Through the log, so that every worker and every night knows it."""
        user_id = identifier(request, "user_id")
        request.query(frozenset())
        self._versions.champion()
        write = opt_out_write(user_id, out, self._stamp())
        entries = await self._durable(lambda: self._log.submit([write]))
        await self._fold(entries)
        return MsgspecResponse(
            api.OptOut(user_id=user_id, opted_out=out, position=entries[0].position)
        )

    async def list_models(self, request: Request) -> Response:
        request.query(frozenset())
        champion = self._versions.champion().version
        roles = self._versions.roles()
        try:
            available = await asyncio.to_thread(self._provider.versions)
        except RecsysError as error:
            log("warning", "versions_not_listed", reason=error.what)
            raise unavailable(f"{error.what}; it knows the versions.", 2) from None
        for version in available[:20]:
            roles.setdefault(version, "available")
        models = [api.ModelView(version=version, role=role) for version, role in roles.items()]
        return MsgspecResponse(api.ModelList(champion=champion, models=models))

    # operations

    async def operations(self, request: Request) -> Response:
        request.query(frozenset())
        workspace = await asyncio.to_thread(self._provider.operations)
        service = await asyncio.to_thread(metrics.summary)
        return MsgspecResponse(
            api.OperatorView(workspace=workspace, service=service, log=await self._log_facts())
        )

    async def _log_facts(self) -> dict[str, Any]:
        """The log's end, and how far each engine's state is behind it."""
        trouble = self._log.trouble
        facts: dict[str, Any] = {
            "trouble": self._clock.trouble if trouble is None else _plainly(trouble),
            "impressions_waiting": len(self._impressions),
        }
        try:
            end = await asyncio.to_thread(self._log.last_position)
        except LogUnavailable as error:
            return {**facts, "trouble": _plainly(error)}
        behind = {live.engine.version: end - live.position for live in self._versions.live()}
        return {**facts, "end": end, "records_behind": behind}

    async def healthz(self, _: Request) -> Response:
        return MsgspecResponse(api.Health(status="alive"))

    async def readyz(self, _: Request) -> Response:
        if self._draining.is_set():
            return MsgspecResponse(api.Health(status="draining", reason="shutting down"), 503)
        if not self._versions.ready:
            return MsgspecResponse(api.Health(status="starting", reason="no model is loaded"), 503)
        trouble = self._log.trouble
        reason = self._clock.trouble if trouble is None else _plainly(trouble)
        if reason is None and self._keys is not None:
            reason = self._keys.trouble
        if reason is not None:
            return MsgspecResponse(api.Health(status="refusing", reason=reason), 503)
        version = self._versions.champion().version
        return MsgspecResponse(api.Health(status="ready", model_version=version))

    async def metrics(self, _: Request) -> Response:
        body = await asyncio.to_thread(metrics.render)
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _: Request) -> Response:
        items = self._items_are()
        if self._document is None or self._document[0] != items:
            made = openapi.document(self._settings, self._keys is not None, *items)
            self._document = items, MsgspecResponse(made)
        return self._document[1]

    def _items_are(self) -> tuple[dict[str, str], int]:
        """Name → kind of the items' attributes, and the length of their vectors; none before a model is
        loaded."""
        if not self._versions.ready:
            return {}, 0
        champion = self._versions.champion()
        return dict(champion.attribute_kinds), champion.vector_length

    async def _json(
        self,
        request: Request,
        decoder: "msgspec.json.Decoder[Any]",
        query: frozenset[str] = frozenset(),
    ) -> Any:
        request.query(query)
        return request.decoded(decoder)


def _plainly(error: RecsysError) -> str:
    """A problem in one line, without places."""
    facts = {"found": error.found, "expected": error.expected}
    said = [f"{name} {fact}" for name, fact in facts.items() if fact is not None]
    return "; ".join([error.what, *said])


def whole_number(value: float, name: str) -> int:
    """A number of a body that must be whole.

    Raises:
        Problem: it is not (422).
    """
    if value != int(value):
        raise Problem(422, f"`{name}` is not a whole number.", [(f"$.{name}", "not whole")])
    return int(value)


def _fits(rule: api.Rule, columns: Mapping[str, str]) -> bool:
    """Whether a rule's filters name columns that there are."""
    try:
        if not isinstance(rule, api.Pin):
            parse(rule.filters, columns)
    except UsageError as error:
        log("error", "rule_left_out", rule=rule.name, reason=error.what, found=error.found)
        return False
    return True


def _whole_places(rules: Sequence[api.Rule]) -> Sequence[api.Rule]:
    """The rules of a request.

    Raises:
        Problem: a place is not whole (422).
    """
    for n, rule in enumerate(rules):
        if isinstance(rule, api.Pin):
            whole_number(rule.place, f"rules[{n}].place")
        elif isinstance(rule, api.Slot):
            for m, place in enumerate(rule.places):
                whole_number(place, f"rules[{n}].places[{m}]")
    return rules


def identifier(request: Request, name: str) -> str:
    """A part of the path that is an id.

    Raises:
        Problem: it is empty or too long (422).
    """
    try:
        return msgspec.convert(request.path_params[name], api.Id)
    except msgspec.ValidationError as error:
        raise invalid(f"{error} - at `path.{name}`") from None


def whole(query: dict[str, str], name: str, default: int) -> int:
    """A whole number from 1 to 100 out of the query."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= 100):
        detail = f"`{name}` is not a whole number from 1 to 100."
        raise Problem(422, detail, [(f"query.{name}", "1..100")])
    return int(text)


def _past(history: list[api.PastEvent] | None) -> list[dict[str, Any]] | None:
    """Events sent along, times in µs; one without a time happened just before the moment asked for."""
    if history is None:
        return None
    return [
        {
            c.ITEM_ID: event.item_id,
            c.EVENT_TYPE: event.event_type,
            c.TIMESTAMP: None if event.timestamp is None else api.to_microseconds(event.timestamp),
            c.VALUE: event.value,
        }
        for event in history
    ]


def _columns(item_id: str, item: api.NewItem | api.ItemBody) -> dict[str, Any]:
    """The given columns and attributes of an item, flat as in the items table.

    Raises:
        Problem: an attribute has the name of a column (409).
    """
    row: dict[str, Any] = dict(item.attributes or {})
    clash = next((name for name in row if name in _STANDARD), None)
    if clash is not None:
        detail = f"{clash!r} is a field of every item; it cannot be an attribute."
        raise Problem(409, detail, [("$.attributes", f"{clash!r} is taken")])
    row[c.ITEM_ID] = item_id
    for name in (c.TITLE, c.DESCRIPTION, c.TAGS, c.CATEGORY, c.AVAILABLE, c.VECTOR):
        value = getattr(item, name, None)
        if value is not None:
            row[name] = value
    if item.created_at is not None:
        row[c.CREATED_AT] = api.to_microseconds(item.created_at)
    return row


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """What is known of an item as the log keeps it: times in µs, nothing where nothing is."""
    return {
        name: api.to_microseconds(value) if isinstance(value, datetime) else value
        for name, value in row.items()
        if value is not None
    }


def _view(item_id: str, row: dict[str, Any]) -> api.ItemView:
    created = row.get(c.CREATED_AT)
    return api.ItemView(
        item_id=item_id,
        title=str(row.get(c.TITLE) or ""),
        description=row.get(c.DESCRIPTION),
        tags=list(row.get(c.TAGS) or ()),
        category=row.get(c.CATEGORY),
        created_at=iso(created) if created is not None else None,
        available=bool(row.get(c.AVAILABLE, True)),
        attributes={k: v for k, v in row.items() if k not in _STANDARD and _is_plain(v)},
    )


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _stored(event: dict[str, Any], engine: ReleasedModel) -> api.StoredEvent:
    value = event.get(c.VALUE)
    return api.StoredEvent(
        item_id=str(event[c.ITEM_ID]),
        event_type=str(event[c.EVENT_TYPE]),
        timestamp=iso(event[c.TIMESTAMP]),
        value=None if value is None or value != value else float(value),
        title=title_of(engine, str(event[c.ITEM_ID])),
    )


def title_of(engine: ReleasedModel, item_id: str) -> str | None:
    row = engine.item(item_id)
    return None if row is None else row.get(c.TITLE)
