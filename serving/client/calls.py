"""Each operation of the API as a request and the type of its answer; both clients send these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec

from recsys.data_schemas import api
from recsys.data_schemas.shards import SHARD_HEADER, shard_of

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
    user: str | None = None
    """Whose history the answer needs."""


def rank(request: api.RankRequest) -> Call[api.RankedList]:
    body = _encode(request)
    return Call("POST", "/v1/rank", api.RankedList, body, user=_asked_about(request))


def recommend(request: api.RecommendRequest) -> Call[api.RankedList]:
    body = _encode(request)
    return Call("POST", "/v1/recommend", api.RankedList, body, user=_asked_about(request))


def _asked_about(request: api.RankRequest | api.RecommendRequest) -> str | None:
    """The user, or the visit that stands for one."""
    if request.user_id is not None or request.session_id is None:
        return request.user_id
    return f"{api.SESSION}{request.session_id}"


def event(
    user_id: str | None, item_id: str, event_type: str, more: Mapping[str, Any]
) -> api.EventIn:
    """An event of a user, or of the session that `more` names."""
    who = msgspec.UNSET if user_id is None else user_id
    return api.EventIn(user_id=who, item_id=item_id, event_type=event_type, **more)


def events(given: Sequence[api.EventIn]) -> Call[api.EventsAnswer]:
    """Events get an event_id where they have none, so that a repetition counts once."""
    named = [
        event if event.event_id else msgspec.structs.replace(event, event_id=uuid4().hex)
        for event in given
    ]
    return Call("POST", "/v1/events", api.EventsAnswer, _encode(named))


def put_item(item_id: str, item: api.ItemBody) -> Call[api.ItemAnswer]:
    return Call("PUT", f"/v1/items/{_part(item_id)}", api.ItemAnswer, _encode(_given(item)))


def get_item(item_id: str) -> Call[api.ItemView]:
    return Call("GET", f"/v1/items/{_part(item_id)}", api.ItemView)


def find_items(query: str, limit: int) -> Call[api.ItemList]:
    return Call("GET", "/v1/items", api.ItemList, query={"query": query, "limit": str(limit)})


def put_items(items: Sequence[api.ItemChange]) -> Call[api.ItemsAnswer]:
    return Call("POST", "/v1/items", api.ItemsAnswer, _encode([_given(item) for item in items]))


def patch_item(item_id: str, item: api.ItemBody) -> Call[api.ItemAnswer]:
    return Call("PATCH", f"/v1/items/{_part(item_id)}", api.ItemAnswer, _encode(_given(item)))


def delete_item(item_id: str) -> Call[api.ItemAnswer]:
    return Call("DELETE", f"/v1/items/{_part(item_id)}", api.ItemAnswer)


def similar(item_id: str, k: int, by: str) -> Call[api.SimilarList]:
    path = f"/v1/items/{_part(item_id)}/similar"
    return Call("GET", path, api.SimilarList, query={"k": str(k), "by": by})


def similar_to(request: api.SimilarRequest) -> Call[api.SimilarList]:
    return Call("POST", "/v1/similar", api.SimilarList, _encode(request))


def popular(request: api.PopularRequest) -> Call[api.PopularList]:
    return Call("POST", "/v1/popular", api.PopularList, _encode(request))


def impressions(given: Sequence[api.ImpressionIn]) -> Call[api.ImpressionsAnswer]:
    """Lists get an impression_id where they have none, so that a repetition counts once."""
    named = [
        shown if shown.impression_id else msgspec.structs.replace(shown, impression_id=uuid4().hex)
        for shown in given
    ]
    return Call("POST", "/v1/impressions", api.ImpressionsAnswer, _encode(named))


def merge(user_id: str, session_id: str) -> Call[api.Merged]:
    body = _encode(api.MergeRequest(session_id=session_id))
    return Call("POST", f"/v1/users/{_part(user_id)}/merge", api.Merged, body)


def put_user(user_id: str, user: api.UserBody) -> Call[api.UserAnswer]:
    return Call("PUT", f"/v1/users/{_part(user_id)}", api.UserAnswer, _encode(user))


def get_user(user_id: str) -> Call[api.UserView]:
    return Call("GET", f"/v1/users/{_part(user_id)}", api.UserView, user=user_id)


def forget_user(user_id: str) -> Call[api.Forgotten]:
    return Call("DELETE", f"/v1/users/{_part(user_id)}", api.Forgotten)


def opt_out(user_id: str) -> Call[api.OptOut]:
    return Call("PUT", f"/v1/users/{_part(user_id)}/opt-out", api.OptOut)


def opt_in(user_id: str) -> Call[api.OptOut]:
    return Call("DELETE", f"/v1/users/{_part(user_id)}/opt-out", api.OptOut)


def models() -> Call[api.ModelList]:
    return Call("GET", "/v1/models", api.ModelList)


def ready() -> Call[api.Health]:
    return Call("GET", "/readyz", api.Health)


def arguments(call: Call[Any], shards: int | None = None) -> dict[str, Any]:
    """A call as httpx takes it; where histories lie in shards, with the one that a router sends it to."""
    headers = {"content-type": "application/json"} if call.body is not None else {}
    if shards is not None and call.user:
        headers[SHARD_HEADER] = str(shard_of(call.user, shards))
    return {"content": call.body, "headers": headers, "params": call.query}


def _given(item: api.ItemBody) -> dict[str, Any]:
    return {k: v for k, v in msgspec.structs.asdict(item).items() if v is not None}


def _part(text: str) -> str:
    return quote(text, safe="")
