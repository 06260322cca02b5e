"""The OpenAPI 3.1 document, made from the operations and their structs."""

import ast
import inspect
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec

from recsys.data_schemas import api
from recsys.data_schemas.limits import TEXT
from recsys.filters import columns_of
from recsys.filters import schemas as filter_schemas
from recsys.serving.item_fields import STANDARD
from recsys.serving.problems import TITLES
from recsys.serving.routes import OPERATIONS, Operation
from recsys.serving.settings import ServiceSettings

_REF = "#/components/schemas/{name}"


def document(
    settings: ServiceSettings,
    secured: bool,
    attributes: Mapping[str, str] | None = None,
    vector_length: int = 0,
) -> dict[str, Any]:
    """The document for a service with these limits.

    Args:
        settings: limits.
        secured: whether keys are needed.
        attributes: name → kind of the items' attributes, which filters, caps and fields may name.
        vector_length: numbers of an item's own vector; 0 where items bring none, and any will do.
    """
    types = [t for op in OPERATIONS for t in (op.body, op.answer) if t is not None]
    types += [p.type for op in OPERATIONS for p in op.parameters]
    types.append(api.ProblemDetails)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schemas, components = _end_patterns(schemas), _end_patterns(components)
    by_type = dict(zip(map(_key, types), schemas, strict=True))
    components["RankRequest"]["properties"]["items"]["maxItems"] = settings.max_candidates
    described = _descriptions()
    for name, schema in components.items():
        _describe(schema, described.get(name, {}))
    for name in ("RankRequest", "RecommendRequest"):
        components[name]["properties"]["explain"]["anyOf"][1]["type"] = "integer"
    _name_columns(components, attributes or {})
    for name in ("NewItem", "ItemBody", "ItemChange") if vector_length else ():
        vector = components[name]["properties"]["vector"]["anyOf"][0]
        vector["minItems"] = vector["maxItems"] = vector_length
    for name in ("EventIn", "ImpressionIn"):
        # By a user, or by a visit.
        components[name]["anyOf"] = [{"required": ["user_id"]}, {"required": ["session_id"]}]
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
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": paths,
        "components": {"schemas": components},
    }
    if secured:
        result["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    return result


_TAGS = {
    "lists": "What to show, and in which order.",
    "events": "What people did and saw.",
    "items": "The catalogue.",
    "users": "What is stored of people.",
    "service": "The service itself.",
}
_TAG_FIELDS = {"do": "Which kind of rule this is."}
"""Fields that tell structs apart, which have no line of their own in the source."""
_LISTS = ("rank", "recommend", "similar", "similar_to", "popular")
_FILTERS = "Filters"


def _tag(op: Operation) -> str:
    """Under which heading an operation stands."""
    if op.name in _LISTS:
        return "lists"
    if op.name in ("post_events", "post_impressions"):
        return "events"
    second = op.path.split("/")[2] if op.is_api else ""
    return second if second in _TAGS else "service"


def _descriptions() -> dict[str, dict[str, str]]:
    """Struct → field → the docstring below it, as it stands in the source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(api)).body:
        if isinstance(node, ast.ClassDef):
            own = dict(found.get(getattr(node.bases[0], "id", ""), {}) if node.bases else {})
            for field, below in pairwise(node.body):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    assert isinstance(field.target, ast.Name)
                    assert isinstance(below.value, ast.Constant)
                    own[field.target.id] = inspect.cleandoc(str(below.value.value))
            found[node.name] = own
    return found


def _describe(schema: dict[str, Any], described: Mapping[str, str]) -> None:
    """Say what the fields of a struct are.

    A default is said in words: tools take a field with one for a field that is always there, and a
    caller may leave it out.
    """
    for name, field in schema.get("properties", {}).items():
        said = described.get(name) or _TAG_FIELDS.get(name)
        default = field.pop("default", None)
        if said is not None:
            given = "" if default in (None, [], {}, "") else f" Default: {_said(default)}."
            field["description"] = said + given
        if field.get("type") == "object" and "maxItems" in field:
            # msgspec writes the bounds of a mapping as those of a list.
            field["maxProperties"] = field.pop("maxItems")
        _whole(name, field)


def _end_patterns(schema: Any) -> Any:
    r"""The same schema with the end of a text written `$`: JSON Schema's patterns know no `\Z`."""
    if isinstance(schema, dict):
        return {
            key: value[: -len(r"\Z")] + "$"
            if key == "pattern" and isinstance(value, str) and value.endswith(r"\Z")
            else _end_patterns(value)
            for key, value in schema.items()
        }
    return [_end_patterns(one) for one in schema] if isinstance(schema, list | tuple) else schema


def _said(default: object) -> str:
    return f"`{msgspec.json.encode(default).decode()}`"


def _whole(name: str, field: dict[str, Any]) -> None:
    """Counts are whole numbers; they are read as numbers because JSON knows 2 and 2.0 as one."""
    if name in ("k", "place"):
        field["type"] = "integer"
    if name == "places":
        field["items"]["type"] = "integer"
    if name == "caps":
        field["additionalProperties"]["type"] = "integer"


def _name_columns(components: dict[str, Any], attributes: Mapping[str, str]) -> None:
    """Say which columns filters, caps and fields may name, so that no name that fits the document
    is refused."""
    columns = columns_of(attributes)
    components |= filter_schemas(columns, _FILTERS, _REF)
    texts = [name for name, kind in columns.items() if kind == TEXT]
    for schema in components.values():
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or "title" not in schema:
            continue
        if "filters" in properties:
            said = properties["filters"]["description"]
            properties["filters"] = {"$ref": _REF.format(name=_FILTERS), "description": said}
        if "fields" in properties:
            properties["fields"]["items"] = {"enum": [*STANDARD, *attributes]}
        if "caps" in properties:
            properties["caps"]["propertyNames"] = {"enum": texts}


def _key(type_: Any) -> str:
    return repr(type_)


def _operation(op: Operation, by_type: dict[str, Any], secured: bool) -> dict[str, Any]:
    result: dict[str, Any] = {
        "operationId": op.name,
        "summary": op.about,
        "tags": [_tag(op)],
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
