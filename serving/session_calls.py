"""Calls about visits of people who are not logged in, and about lists that were shown elsewhere.

A visit is kept as a user of its own, named by `api.SESSION`; at the log-in its events and lists become
the user's.
"""

import asyncio
import os
from typing import Any, cast

import msgspec
from starlette.responses import Response

from recsys.data_schemas import api
from recsys.data_schemas import columns as c
from recsys.serving.asgi import MsgspecResponse, Request
from recsys.serving.body_rules import (
    doer_of,
    require_attributes,
    require_times,
    session_user,
    times_of,
)
from recsys.serving.catalogue_calls import CatalogueCalls
from recsys.serving.handlers import identifier
from recsys.serving.problems import Problem
from recsys.storage.eventlog.log import impression_write, user_write

_encode = msgspec.json.Encoder().encode
_merge = msgspec.json.Decoder(api.MergeRequest)
_user = msgspec.json.Decoder(api.UserBody)
_impressions = msgspec.json.Decoder(api.ImpressionsBody)


class SessionCalls(CatalogueCalls):
    """Adds the calls about visits and shown lists."""

    async def merge(self, request: Request) -> Response:
        user_id = identifier(request, "user_id")
        body = await self._json(request, _merge)
        self._versions.champion()
        session, now = session_user(body.session_id), self._stamp()
        entries = []
        if session != user_id:
            await asyncio.to_thread(self._impressions.flush)
            entries = await self._durable(lambda: self._log.submit_move(session, user_id, now))
            self._impressions.hand_over(session, user_id)
        if entries:
            await self._fold(entries)
        return MsgspecResponse(
            api.Merged(user_id=user_id, session_id=body.session_id, events=max(0, len(entries) - 1))
        )

    async def put_user(self, request: Request) -> Response:
        user_id = identifier(request, "user_id")
        body = await self._json(request, _user)
        model, now = self._versions.champion(), self._stamp()
        require_attributes(dict(model.user_attribute_kinds), body.attributes, "users")
        if c.USER_ID in body.attributes:
            detail = f"{c.USER_ID!r} names the user; it cannot be an attribute."
            raise Problem(409, detail, [("$.attributes", f"{c.USER_ID!r} is taken")])
        write = user_write(user_id, body.attributes, now)
        entries = await self._durable(lambda: self._log.submit([write]))
        await self._fold(entries)
        return MsgspecResponse(api.UserAnswer(user_id=user_id, position=entries[0].position))

    async def post_impressions(self, request: Request) -> Response:
        body = await self._json(request, cast(Any, _impressions))
        lists: list[api.ImpressionIn] = body if isinstance(body, list) else [body]
        require_times(
            times_of(lists, "$") if isinstance(body, list) else [("$.timestamp", body.timestamp)]
        )
        now = self._stamp()
        rows = [self._shown(one, now) for one in lists]
        writes = [impression_write(row) for row in rows]
        entries = await self._durable(lambda: self._log.submit(writes))
        await self._fold(entries)
        return MsgspecResponse(
            api.ImpressionsAnswer(
                impression_ids=[row[c.IMPRESSION_ID] for row in rows],
                duplicates=sum(not entry.fresh for entry in entries),
            )
        )

    def _shown(self, one: api.ImpressionIn, now: int) -> dict[str, Any]:
        """A list as the log keeps those of our own, without scores and version."""
        return {
            c.IMPRESSION_ID: one.impression_id or os.urandom(16).hex(),
            c.USER_ID: doer_of(one),
            c.TIMESTAMP: self._happened(one.timestamp, now),
            c.RECEIVED_AT: now,
            c.ITEM_IDS: one.item_ids,
            c.SURFACE: one.surface,
            c.CONTEXT: _encode(one.context).decode() if one.context else None,
        }
