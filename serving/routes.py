"""Every operation of the API, declared once: the router and the OpenAPI document both read this."""

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from recsys.data_schemas import api


@dataclass(frozen=True)
class Parameter:
    """A part of the path or of the query."""

    name: str
    place: str
    """`path` or `query`."""
    type: Any
    about: str
    example: object = None


@dataclass(frozen=True)
class Operation:
    """One method on one path."""

    method: str
    path: str
    name: str
    """Name of the handler, and operationId."""
    about: str
    scope: str | None = None
    """Scope the caller's key needs; None for anybody."""
    body: Any = None
    answer: Any = None
    media: str = "application/json"
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    example: object = None
    """An example body."""
    stores: bool = False
    """Whether a call by POST waits for the durable log."""
    from_pages: bool = False
    """Whether a key of the scope `collect` does too, in the header or as the query's `key`."""

    @property
    def writes(self) -> bool:
        """Whether the call waits for the durable log."""
        return self.scope == "events" or self.method in ("PUT", "PATCH", "DELETE") or self.stores

    @property
    def is_api(self) -> bool:
        """Whether admission control and the time budget apply."""
        return self.path.startswith("/v1/")


_ITEM = Parameter("item_id", "path", api.Id, "The item.", "50")
_USER = Parameter("user_id", "path", api.Id, "The user.", "42")
_LIMIT = Annotated[int, Meta(ge=1, le=100)]
_WORK = (400, 408, 413, 415, 422, 503)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/v1/rank",
        "rank",
        "Put given items in order for a user.",
        scope="rank",
        body=api.RankRequest,
        answer=api.RankedList,
        errors=(404, 409, *_WORK),
        example={
            "user_id": "42",
            "items": ["50", "172", {"item_id": "new-1", "title": "A new film"}],
            "explain": True,
        },
    ),
    Operation(
        "POST",
        "/v1/recommend",
        "recommend",
        "Recommend items of the whole catalogue to a user.",
        scope="rank",
        body=api.RecommendRequest,
        answer=api.RankedList,
        errors=(404, *_WORK),
        example={"user_id": "42", "k": 10, "diversity": 0.2},
    ),
    Operation(
        "POST",
        "/v1/events",
        "post_events",
        "Store what users did; answered once it is durable.",
        scope="events",
        body=api.EventsBody,
        answer=api.EventsAnswer,
        errors=(409, *_WORK),
        example={"user_id": "42", "item_id": "50", "event_type": "click", "event_id": "e-1"},
        parameters=(
            Parameter(
                "key",
                "query",
                str,
                "A key of the scope `collect`, from a page that can set no header.",
                "rk_1f2e_…",
            ),
        ),
        from_pages=True,
    ),
    Operation(
        "PUT",
        "/v1/items/{item_id}",
        "put_item",
        "Add or change an item.",
        scope="admin",
        body=api.ItemBody,
        answer=api.ItemAnswer,
        parameters=(_ITEM,),
        errors=(409, *_WORK),
        example={"title": "A new film", "tags": ["drama"], "available": True},
    ),
    Operation(
        "GET",
        "/v1/items",
        "find_items",
        "Look through the catalogue.",
        scope="rank",
        answer=api.ItemList,
        errors=(422, 503),
        parameters=(
            Parameter(
                "query",
                "query",
                Annotated[str, Meta(max_length=200)],
                "Words of the title.",
                "star",
            ),
            Parameter("limit", "query", _LIMIT, "Items at most (20).", 20),
        ),
    ),
    Operation(
        "GET",
        "/v1/items/{item_id}",
        "get_item",
        "An item as the service knows it.",
        scope="rank",
        answer=api.ItemView,
        parameters=(_ITEM,),
        errors=(404, 422, 503),
    ),
    Operation(
        "POST",
        "/v1/items",
        "post_items",
        "Add or change several items.",
        scope="admin",
        body=api.ItemBatch,
        answer=api.ItemsAnswer,
        errors=(409, *_WORK),
        example=[{"item_id": "new-1", "title": "A new film", "tags": ["drama"]}],
        stores=True,
    ),
    Operation(
        "PATCH",
        "/v1/items/{item_id}",
        "patch_item",
        "Change an item that is known.",
        scope="admin",
        body=api.ItemBody,
        answer=api.ItemAnswer,
        parameters=(_ITEM,),
        errors=(404, 409, *_WORK),
        example={"attributes": {"price": 12.5}},
    ),
    Operation(
        "DELETE",
        "/v1/items/{item_id}",
        "delete_item",
        "Recommend an item no more; what people did with it stays.",
        scope="admin",
        answer=api.ItemAnswer,
        parameters=(_ITEM,),
        errors=(404, 409, 422, 503),
    ),
    Operation(
        "GET",
        "/v1/items/{item_id}/similar",
        "similar",
        "Items like one.",
        scope="rank",
        answer=api.SimilarList,
        errors=(404, 422, 503),
        parameters=(
            _ITEM,
            Parameter("k", "query", _LIMIT, "Items at most (10).", 10),
            Parameter(
                "by", "query", api.By, "All sources together (blend), or some of them.", "blend"
            ),
        ),
    ),
    Operation(
        "POST",
        "/v1/similar",
        "similar_to",
        "Items like one or several, under filters.",
        scope="rank",
        body=api.SimilarRequest,
        answer=api.SimilarList,
        errors=_WORK,
        example={"items": ["50", "172"], "k": 5, "by": "blend"},
    ),
    Operation(
        "POST",
        "/v1/popular",
        "popular",
        "What most people go for, without a person.",
        scope="rank",
        body=api.PopularRequest,
        answer=api.PopularList,
        errors=_WORK,
        example={"window": "7d", "k": 10},
    ),
    Operation(
        "POST",
        "/v1/impressions",
        "post_impressions",
        "Store lists that were made and shown elsewhere; answered once they are durable.",
        scope="events",
        body=api.ImpressionsBody,
        answer=api.ImpressionsAnswer,
        errors=(409, *_WORK),
        example={"user_id": "42", "item_ids": ["50", "172"], "surface": "home"},
    ),
    Operation(
        "POST",
        "/v1/users/{user_id}/merge",
        "merge",
        "The events and lists of a visit become the user's, and the visit is forgotten.",
        scope="events",
        body=api.MergeRequest,
        answer=api.Merged,
        parameters=(_USER,),
        errors=_WORK,
        example={"session_id": "8f2c"},
    ),
    Operation(
        "PUT",
        "/v1/users/{user_id}",
        "put_user",
        "Say what a user is: attributes, which the next answer knows.",
        scope="admin",
        body=api.UserBody,
        answer=api.UserAnswer,
        parameters=(_USER,),
        errors=(409, *_WORK),
        example={"attributes": {"plan": "premium", "age": 34}},
    ),
    Operation(
        "GET",
        "/v1/users/{user_id}",
        "get_user",
        "What is stored about a user.",
        scope="admin",
        answer=api.UserView,
        parameters=(_USER,),
        errors=(404, 422, 503),
    ),
    Operation(
        "DELETE",
        "/v1/users/{user_id}",
        "delete_user",
        "Forget a user.",
        scope="admin",
        answer=api.Forgotten,
        parameters=(_USER,),
        errors=(404, 422, 503),
    ),
    Operation(
        "PUT",
        "/v1/users/{user_id}/opt-out",
        "opt_out",
        "Answer a user as somebody new from now on, and learn nothing from them.",
        scope="admin",
        answer=api.OptOut,
        parameters=(_USER,),
        errors=(422, 503),
    ),
    Operation(
        "DELETE",
        "/v1/users/{user_id}/opt-out",
        "opt_in",
        "Take that back.",
        scope="admin",
        answer=api.OptOut,
        parameters=(_USER,),
        errors=(422, 503),
    ),
    Operation(
        "GET",
        "/v1/models",
        "list_models",
        "Versions in service and versions that can be asked for.",
        scope="rank",
        answer=api.ModelList,
        errors=(422, 503),
    ),
    Operation(
        "GET",
        "/v1/ops",
        "operations",
        "What an operator looks at; the page /ops draws it.",
        scope="admin",
        answer=api.OperatorView,
        errors=(422, 503),
    ),
    Operation("GET", "/healthz", "healthz", "Whether the process lives.", answer=api.Health),
    Operation(
        "GET",
        "/readyz",
        "readyz",
        "Whether it can answer; 503 until it is warm, and when it drains.",
        answer=api.Health,
        errors=(503,),
    ),
    Operation("GET", "/metrics", "metrics", "Counters for Prometheus.", media="text/plain"),
    Operation("GET", "/openapi.json", "openapi", "This document.", answer=dict[str, Any]),
)
