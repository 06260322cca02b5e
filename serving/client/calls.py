"""Each operation of the API as a request and the type of its answer; both clients send these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec

from recsys.data_schemas import api

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and what its answer is."""

    method: str
    path: str
    answer: type[T]
    body: bytes | None = None
    query: Mapping[str, str] | None = None


def rank(request: api.RankRequest) -> Call[api.RankedList]:
    return Call("POST", "/v1/rank", api.RankedList, _encode(request))


def recommend(request: api.RecommendRequest) -> Call[api.RankedList]:
    return Call("POST", "/v1/recommend", api.RankedList, _encode(request))


def events(given: Sequence[api.EventIn]) -> Call[api.EventsAnswer]:
    """Events get an event_id where they have none, so that a repetition counts once."""
    named = [
        event if event.event_id else msgspec.structs.replace(event, event_id=uuid4().hex)
        for event in given
    ]
    return Call("POST", "/v1/events", api.EventsAnswer, _encode(named))


def put_item(item_id: str, item: api.ItemBody) -> Call[api.ItemAnswer]:
    given = {k: v for k, v in msgspec.structs.asdict(item).items() if v is not None}
    return Call("PUT", f"/v1/items/{_part(item_id)}", api.ItemAnswer, _encode(given))


def get_item(item_id: str) -> Call[api.ItemView]:
    return Call("GET", f"/v1/items/{_part(item_id)}", api.ItemView)


def find_items(query: str, limit: int) -> Call[api.ItemList]:
    return Call("GET", "/v1/items", api.ItemList, query={"query": query, "limit": str(limit)})


def similar(item_id: str, k: int) -> Call[api.SimilarList]:
    path = f"/v1/items/{_part(item_id)}/similar"
    return Call("GET", path, api.SimilarList, query={"k": str(k)})


def get_user(user_id: str) -> Call[api.UserView]:
    return Call("GET", f"/v1/users/{_part(user_id)}", api.UserView)


def forget_user(user_id: str) -> Call[api.Forgotten]:
    return Call("DELETE", f"/v1/users/{_part(user_id)}", api.Forgotten)


def models() -> Call[api.ModelList]:
    return Call("GET", "/v1/models", api.ModelList)


def ready() -> Call[api.Health]:
    return Call("GET", "/readyz", api.Health)


def arguments(call: Call[Any]) -> dict[str, Any]:
    """A call as httpx takes it."""
    headers = {"content-type": "application/json"} if call.body is not None else {}
    return {"content": call.body, "headers": headers, "params": call.query}


def _part(text: str) -> str:
    return quote(text, safe="")
