"""The OpenAPI 3.1 document, made from the operations and their structs."""

from typing import Any

import msgspec

from recsys.data_schemas import api
from recsys.serving.problems import TITLES
from recsys.serving.routes import OPERATIONS, Operation
from recsys.serving.settings import ServiceSettings

_REF = "#/components/schemas/{name}"


def document(settings: ServiceSettings, secured: bool) -> dict[str, Any]:
    """The document for a service with these limits; `secured` when keys are needed."""
    types = [t for op in OPERATIONS for t in (op.body, op.answer) if t is not None]
    types += [p.type for op in OPERATIONS for p in op.parameters]
    types.append(api.ProblemDetails)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(_key, types), schemas, strict=True))
    components["RankRequest"]["properties"]["items"]["maxItems"] = settings.max_candidates
    for name in ("RankRequest", "RecommendRequest"):
        _keep_objects_small(components[name])
        components[name]["properties"]["explain"]["anyOf"][1]["type"] = "integer"
    recommend = components["RecommendRequest"]["properties"]
    recommend["k"]["type"] = "integer"
    recommend["caps"]["additionalProperties"]["type"] = "integer"
    paths: dict[str, Any] = {}
    for op in OPERATIONS:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op, by_type, secured)
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "recsys",
            "version": api.API_VERSION,
            "description": "Rank items for a user, recommend from the catalogue, learn from events.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if secured:
        result["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    return result


def _key(type_: Any) -> str:
    return repr(type_)


def _keep_objects_small(schema: dict[str, Any]) -> None:
    """msgspec writes the bounds of a mapping as those of a list; JSON Schema has its own words."""
    for field in schema["properties"].values():
        if field.get("type") == "object" and "maxItems" in field:
            field["maxProperties"] = field.pop("maxItems")


def _operation(op: Operation, by_type: dict[str, Any], secured: bool) -> dict[str, Any]:
    result: dict[str, Any] = {
        "operationId": op.name,
        "summary": op.about,
        "responses": _responses(op, by_type, secured),
    }
    if op.parameters:
        result["parameters"] = [
            {
                "name": p.name,
                "in": p.place,
                "required": p.place == "path",
                "description": p.about,
                "schema": by_type[_key(p.type)],
                "example": p.example,
            }
            for p in op.parameters
        ]
    if op.body is not None:
        content = {"schema": by_type[_key(op.body)], "example": op.example}
        result["requestBody"] = {"required": True, "content": {"application/json": content}}
    if secured and op.scope is not None:
        result["security"] = [{"bearer": []}, {"header": []}]
        result["description"] = f"Needs the scope `{op.scope}`."
    return result


def _responses(op: Operation, by_type: dict[str, Any], secured: bool) -> dict[str, Any]:
    schema = by_type[_key(op.answer)] if op.answer is not None else {"type": "string"}
    answers: dict[str, Any] = {
        "200": {"description": "Done.", "content": {op.media: {"schema": schema}}}
    }
    problem = {"application/problem+json": {"schema": by_type[_key(api.ProblemDetails)]}}
    errors = {*op.errors, 421}
    if op.scope is not None and secured:
        errors |= {401, 403}
    if op.body is not None:
        errors |= {403}
    for status in sorted(errors):
        answers[str(status)] = {"description": TITLES[status][1] + ".", "content": problem}
    if op.name == "readyz":
        health = {"application/json": {"schema": by_type[_key(api.Health)]}}
        answers["503"] = {"description": "Not now.", "content": health}
    return answers
