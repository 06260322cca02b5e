"""The two clients: the same methods, one blocking, one awaited.

```python
from recsys.serving.client import Client

with Client("http://127.0.0.1:8080") as client:
    ranked = client.recommend("42", k=5)
    client.event("42", ranked.items[0].item_id, "click", impression_id=ranked.impression_id)
```
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import httpx
import msgspec

from recsys.data_schemas import api
from recsys.serving.client import calls
from recsys.serving.client.calls import Call, arguments
from recsys.serving.client.policy import (
    RETRIED,
    ApiError,
    RetryBudget,
    error_of,
    pause,
    unreachable,
)
from recsys.storage.loopback import is_here

T = TypeVar("T")
Items = Sequence[str | api.NewItem]


class Client:
    """A blocking client; safe to share between threads.

    Args:
        url: where the service is, `http://127.0.0.1:8080`.
        key: an API key, where the service needs one.
        timeout: seconds for one attempt.
        retries: repetitions of one call at most; every call may be repeated safely.
        budget: repetitions over all calls; shared between clients if given.
        shards: in how many shards the workers keep histories; the header tells a router which.
        transport: httpx's way to the service; the network when None.

    Every method raises `ApiError` when the service refuses or cannot be reached.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        budget: RetryBudget | None = None,
        shards: int | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers=_headers(key),
            timeout=timeout,
            transport=transport,
            # A proxy of the environment is for other machines.
            trust_env=not is_here(url),
        )
        self._retries, self._budget = retries, budget or RetryBudget()
        self._shards = shards

    def rank(self, user_id: str | None, items: Items, **more: Any) -> api.RankedList:
        """Put items in order; `more` are fields of `RankRequest`."""
        return self._send(calls.rank(api.RankRequest(user_id=user_id, items=list(items), **more)))

    def recommend(self, user_id: str | None = None, k: int = 10, **more: Any) -> api.RankedList:
        """Recommend; `more` are fields of `RecommendRequest`."""
        return self._send(calls.recommend(api.RecommendRequest(user_id=user_id, k=k, **more)))

    def event(
        self, user_id: str | None, item_id: str, event_type: str, **more: Any
    ) -> api.EventsAnswer:
        """Store one event; `more` are fields of `EventIn`: a `session_id` where there is no user.
        Returns once it is durable."""
        event = calls.event(user_id, item_id, event_type, more)
        return self._send(calls.events([event]))

    def events(self, events: Sequence[api.EventIn]) -> api.EventsAnswer:
        """Store events, at most 1,000. Returns once they are durable."""
        return self._send(calls.events(events))

    def put_item(self, item_id: str, **fields: Any) -> api.ItemAnswer:
        """Add or change an item; `fields` are those of `ItemBody`."""
        return self._send(calls.put_item(item_id, api.ItemBody(**fields)))

    def get_item(self, item_id: str) -> api.ItemView:
        """An item as the service knows it."""
        return self._send(calls.get_item(item_id))

    def find_items(self, query: str, limit: int = 20) -> list[api.ItemView]:
        """Items by words of their title."""
        return self._send(calls.find_items(query, limit)).items

    def put_items(self, items: Sequence[api.ItemChange]) -> list[api.ItemAnswer]:
        """Add or change items, at most 500."""
        return self._send(calls.put_items(items)).items

    def patch_item(self, item_id: str, **fields: Any) -> api.ItemAnswer:
        """Change an item that is known; `fields` are those of `ItemBody`."""
        return self._send(calls.patch_item(item_id, api.ItemBody(**fields)))

    def delete_item(self, item_id: str) -> api.ItemAnswer:
        """Recommend an item no more."""
        return self._send(calls.delete_item(item_id))

    def similar(self, item_id: str, k: int = 10, by: api.By = "blend") -> list[api.SimilarItem]:
        """Items like one."""
        return self._send(calls.similar(item_id, k, by)).items

    def similar_to(self, items: Sequence[str], k: int = 10, **more: Any) -> api.SimilarList:
        """Items like several; `more` are fields of `SimilarRequest`."""
        return self._send(calls.similar_to(api.SimilarRequest(items=list(items), k=k, **more)))

    def popular(self, k: int = 10, **more: Any) -> list[api.PopularItem]:
        """What most people go for; `more` are fields of `PopularRequest`."""
        return self._send(calls.popular(api.PopularRequest(k=k, **more))).items

    def impressions(self, lists: Sequence[api.ImpressionIn]) -> api.ImpressionsAnswer:
        """Store lists shown elsewhere, at most 100. Returns once they are durable."""
        return self._send(calls.impressions(lists))

    def merge(self, user_id: str, session_id: str) -> api.Merged:
        """The events of a visit become the user's."""
        return self._send(calls.merge(user_id, session_id))

    def put_user(self, user_id: str, **attributes: Any) -> api.UserAnswer:
        """Say what a user is; attributes left out keep their values."""
        return self._send(calls.put_user(user_id, api.UserBody(attributes=attributes)))

    def get_user(self, user_id: str) -> api.UserView:
        """What is stored about a user."""
        return self._send(calls.get_user(user_id))

    def forget_user(self, user_id: str) -> api.Forgotten:
        """Forget a user."""
        return self._send(calls.forget_user(user_id))

    def opt_out(self, user_id: str) -> api.OptOut:
        """Answer a user as somebody new, and learn nothing from them."""
        return self._send(calls.opt_out(user_id))

    def opt_in(self, user_id: str) -> api.OptOut:
        """Take that back."""
        return self._send(calls.opt_in(user_id))

    def models(self) -> api.ModelList:
        """Versions in service, and versions that can be asked for."""
        return self._send(calls.models())

    def ready(self) -> bool:
        """Whether the service can answer now."""
        try:
            return self._send(calls.ready(), retries=0).status == "ready"
        except ApiError:
            return False

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T], retries: int | None = None) -> T:
        left = self._retries if retries is None else retries
        self._budget.earn()
        attempt = 0
        while True:
            try:
                answer = self._http.request(call.method, call.path, **arguments(call, self._shards))
                if answer.is_success:
                    return msgspec.json.decode(answer.content, type=call.answer)
                failure, again = error_of(answer), answer.status_code in RETRIED
                wait = pause(attempt, answer.headers)
            except httpx.TransportError as error:
                failure, again, wait = unreachable(error), True, pause(attempt, {})
            if not again or wait is None or attempt >= left or not self._budget.spend():
                raise failure
            time.sleep(wait)
            attempt += 1


class AsyncClient:
    """`Client` for asyncio; the arguments and methods are the same, the methods are awaited.

    Args:
        url: where the service is, `http://127.0.0.1:8080`.
        key: an API key, where the service needs one.
        timeout: seconds for one attempt.
        retries: repetitions of one call at most.
        budget: repetitions over all calls; shared between clients if given.
        shards: in how many shards the workers keep histories; the header tells a router which.
        transport: httpx's way to the service; the network when None.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        budget: RetryBudget | None = None,
        shards: int | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=_headers(key),
            timeout=timeout,
            transport=transport,
            # A proxy of the environment is for other machines.
            trust_env=not is_here(url),
        )
        self._retries, self._budget = retries, budget or RetryBudget()
        self._shards = shards

    async def rank(self, user_id: str | None, items: Items, **more: Any) -> api.RankedList:
        """See `Client.rank`."""
        request = api.RankRequest(user_id=user_id, items=list(items), **more)
        return await self._send(calls.rank(request))

    async def recommend(
        self, user_id: str | None = None, k: int = 10, **more: Any
    ) -> api.RankedList:
        """See `Client.recommend`."""
        return await self._send(calls.recommend(api.RecommendRequest(user_id=user_id, k=k, **more)))

    async def event(
        self, user_id: str | None, item_id: str, event_type: str, **more: Any
    ) -> api.EventsAnswer:
        """See `Client.event`."""
        event = calls.event(user_id, item_id, event_type, more)
        return await self._send(calls.events([event]))

    async def events(self, events: Sequence[api.EventIn]) -> api.EventsAnswer:
        """See `Client.events`."""
        return await self._send(calls.events(events))

    async def put_item(self, item_id: str, **fields: Any) -> api.ItemAnswer:
        """See `Client.put_item`."""
        return await self._send(calls.put_item(item_id, api.ItemBody(**fields)))

    async def get_item(self, item_id: str) -> api.ItemView:
        """See `Client.get_item`."""
        return await self._send(calls.get_item(item_id))

    async def find_items(self, query: str, limit: int = 20) -> list[api.ItemView]:
        """See `Client.find_items`."""
        return (await self._send(calls.find_items(query, limit))).items

    async def put_items(self, items: Sequence[api.ItemChange]) -> list[api.ItemAnswer]:
        """See `Client.put_items`."""
        return (await self._send(calls.put_items(items))).items

    async def patch_item(self, item_id: str, **fields: Any) -> api.ItemAnswer:
        """See `Client.patch_item`."""
        return await self._send(calls.patch_item(item_id, api.ItemBody(**fields)))

    async def delete_item(self, item_id: str) -> api.ItemAnswer:
        """See `Client.delete_item`."""
        return await self._send(calls.delete_item(item_id))

    async def similar(
        self, item_id: str, k: int = 10, by: api.By = "blend"
    ) -> list[api.SimilarItem]:
        """See `Client.similar`."""
        return (await self._send(calls.similar(item_id, k, by))).items

    async def similar_to(self, items: Sequence[str], k: int = 10, **more: Any) -> api.SimilarList:
        """See `Client.similar_to`."""
        request = api.SimilarRequest(items=list(items), k=k, **more)
        return await self._send(calls.similar_to(request))

    async def popular(self, k: int = 10, **more: Any) -> list[api.PopularItem]:
        """See `Client.popular`."""
        return (await self._send(calls.popular(api.PopularRequest(k=k, **more)))).items

    async def impressions(self, lists: Sequence[api.ImpressionIn]) -> api.ImpressionsAnswer:
        """See `Client.impressions`."""
        return await self._send(calls.impressions(lists))

    async def merge(self, user_id: str, session_id: str) -> api.Merged:
        """See `Client.merge`."""
        return await self._send(calls.merge(user_id, session_id))

    async def put_user(self, user_id: str, **attributes: Any) -> api.UserAnswer:
        """See `Client.put_user`."""
        return await self._send(calls.put_user(user_id, api.UserBody(attributes=attributes)))

    async def get_user(self, user_id: str) -> api.UserView:
        """See `Client.get_user`."""
        return await self._send(calls.get_user(user_id))

    async def forget_user(self, user_id: str) -> api.Forgotten:
        """See `Client.forget_user`."""
        return await self._send(calls.forget_user(user_id))

    async def opt_out(self, user_id: str) -> api.OptOut:
        """See `Client.opt_out`."""
        return await self._send(calls.opt_out(user_id))

    async def opt_in(self, user_id: str) -> api.OptOut:
        """See `Client.opt_in`."""
        return await self._send(calls.opt_in(user_id))

    async def models(self) -> api.ModelList:
        """See `Client.models`."""
        return await self._send(calls.models())

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            return (await self._send(calls.ready(), retries=0)).status == "ready"
        except ApiError:
            return False

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, call: Call[T], retries: int | None = None) -> T:
        left = self._retries if retries is None else retries
        self._budget.earn()
        attempt = 0
        while True:
            try:
                answer = await self._http.request(
                    call.method, call.path, **arguments(call, self._shards)
                )
                if answer.is_success:
                    return msgspec.json.decode(answer.content, type=call.answer)
                failure, again = error_of(answer), answer.status_code in RETRIED
                wait = pause(attempt, answer.headers)
            except httpx.TransportError as error:
                failure, again, wait = unreachable(error), True, pause(attempt, {})
            if not again or wait is None or attempt >= left or not self._budget.spend():
                raise failure
            await asyncio.sleep(wait)
            attempt += 1


def _headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}
