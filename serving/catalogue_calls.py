"""Calls about items without a person: what is like them, what is popular, and changes of several."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from recsys.data_schemas import api
from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.query import SimilarQuery, SimilarResult
from recsys.serving.asgi import MsgspecResponse, Request, invalid
from recsys.serving.handlers import Handlers, identifier, title_of, whole, whole_number
from recsys.serving.item_fields import fields_of, require_fields
from recsys.serving.problems import Problem, refused
from recsys.serving.released_model import ReleasedModel
from recsys.serving.texts import TextBatcher
from recsys.storage.eventlog.log import item_write

_similar = msgspec.json.Decoder(api.SimilarRequest)
_popular = msgspec.json.Decoder(api.PopularRequest)
_items = msgspec.json.Decoder(api.ItemBatch)
_change = msgspec.json.Decoder(api.ItemBody)


class CatalogueCalls(Handlers):
    """Adds the calls about items to `Handlers`."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._anchor_texts = TextBatcher()

    # likeness and popularity

    async def similar(self, request: Request) -> Response:
        item_id = identifier(request, "item_id")
        query = request.query(frozenset({"k", "by"}))
        k = whole(query, "k", 10)
        try:
            by = msgspec.convert(query.get("by", "blend"), api.By)
        except msgspec.ValidationError as error:
            raise invalid(f"{error} - at `query.by`") from None
        engine = self._versions.champion()
        if engine.item(item_id) is None:
            raise Problem(404, f"There is no item {item_id!r}.")
        ask = SimilarQuery([item_id], self._clock.now(), k=k, by=by)
        answer = await self._like(engine, ask, request, ())
        answer.item_id = item_id
        return MsgspecResponse(answer)

    async def similar_to(self, request: Request) -> Response:
        asked = await self._json(request, _similar)
        engine = self._versions.champion()
        require_fields(asked.fields, engine)
        ask = SimilarQuery(
            list(dict.fromkeys(asked.items)),
            self._clock.now(),
            k=whole_number(asked.k, "k"),
            by=asked.by,
            filters=asked.filters,
            exclude=asked.exclude,
        )
        return MsgspecResponse(await self._like(engine, ask, request, asked.fields))

    async def _like(
        self, engine: ReleasedModel, ask: SimilarQuery, request: Request, fields: Sequence[str]
    ) -> api.SimilarList:
        """The list of an engine, with the text of new items encoded first where time allows."""
        await self._encode(engine, ask.items, request)
        try:
            found: SimilarResult = engine.similar_to(ask)
        except UsageError as error:
            raise refused(error) from None
        items = [
            api.SimilarItem(
                item_id=other,
                score=score,
                title=title_of(engine, other),
                fields=fields_of(engine, other, fields),
            )
            for other, score in zip(found.item_ids, found.scores, strict=True)
        ]
        return api.SimilarList(
            model_version=engine.version,
            items=items,
            unknown=found.unknown,
            degraded=found.degraded,
        )

    async def _encode(
        self, engine: ReleasedModel, item_ids: Sequence[str], request: Request
    ) -> None:
        if not engine.waiting:
            return
        texts = engine.unencoded(item_ids)
        left = max(0.0, self._deadline(request) - time.monotonic())
        await self._anchor_texts.prepare(engine, texts, left)

    async def popular(self, request: Request) -> Response:
        asked = await self._json(request, _popular)
        engine = self._versions.champion()
        require_fields(asked.fields, engine)
        k = whole_number(asked.k, "k")
        try:
            found = engine.popular(k, self._clock.now(), asked.window, asked.filters)
        except UsageError as error:
            raise refused(error) from None
        items = [
            api.PopularItem(
                item_id=item_id, score=score, fields=fields_of(engine, item_id, asked.fields)
            )
            for item_id, score in found
        ]
        return MsgspecResponse(
            api.PopularList(model_version=engine.version, window=asked.window, items=items)
        )

    # changes

    async def post_items(self, request: Request) -> Response:
        body: list[api.ItemChange] = await self._json(request, _items)
        champion, now = self._versions.champion(), self._stamp()
        rows: dict[str, dict[str, Any]] = {}
        kinds = self._kinds()
        for n, item in enumerate(body):
            # The same item twice in a call: the later change comes upon the first.
            known = rows.get(item.item_id) or champion.item(item.item_id)
            rows[item.item_id] = self._item_row(item.item_id, item, known, now, f"$[{n}]", kinds)
        return MsgspecResponse(api.ItemsAnswer(items=await self._kept(list(rows.values()), now)))

    async def patch_item(self, request: Request) -> Response:
        item_id = identifier(request, "item_id")
        body = await self._json(request, _change)
        return MsgspecResponse(await self._changed(item_id, body))

    async def delete_item(self, request: Request) -> Response:
        item_id = identifier(request, "item_id")
        request.query(frozenset())
        return MsgspecResponse(await self._changed(item_id, api.ItemBody(available=False)))

    async def _changed(self, item_id: str, body: api.ItemBody) -> api.ItemAnswer:
        """A change of an item that is known.

        Raises:
            Problem: it is not (404).
        """
        known = self._versions.champion().item(item_id)
        if known is None:
            raise Problem(404, f"There is no item {item_id!r}.")
        now = self._stamp()
        row = self._item_row(item_id, body, known, now, "$", self._kinds())
        return (await self._kept([row], now))[0]

    async def _kept(self, rows: Sequence[Mapping[str, Any]], now: int) -> list[api.ItemAnswer]:
        """Write items, see them here, and say where they lie."""
        writes = [item_write({**row, c.RECEIVED_AT: now}) for row in rows]
        entries = await self._durable(lambda: self._log.submit(writes))
        await self._fold(entries)
        return [
            api.ItemAnswer(item_id=row[c.ITEM_ID], position=entry.position)
            for row, entry in zip(rows, entries, strict=True)
        ]
