"""recsys.yaml for people and their editors: every setting with its default, and a JSON schema."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from recsys.data_schemas.config import RecsysConfig

SCHEMA_FILE: Final = "recsys.schema.json"
EDITOR_LINE: Final = f"# yaml-language-server: $schema={SCHEMA_FILE}"
"""First line of a recsys.yaml: editors then complete and check it, with the schema beside it."""
WIDTH: Final = 100


def json_schema(declared: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The settings as a JSON schema (draft 2020-12), with what each of them does.

    Args:
        declared: `section.setting` → more of its schema, which the parts of the rooms above declare.
    """
    schema = RecsysConfig.model_json_schema()
    for setting, more in (declared or {}).items():
        section, _, name = setting.partition(".")
        kind = schema["properties"][section]["$ref"].rpartition("/")[2]
        schema["$defs"][kind]["properties"][name] |= more
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "recsys.yaml",
        **schema,
    }


def schema_text(declared: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The JSON schema as a file holds it."""
    return json.dumps(json_schema(declared), indent=1, ensure_ascii=False) + "\n"


def every_setting(leave_out: frozenset[str] = frozenset()) -> str:
    """All settings with their defaults and what they do, each line commented out.

    Taking the `# ` off a section's name and a line of it sets that line.

    Args:
        leave_out: names of the file's sections and settings that stand elsewhere in it.
    """
    lines: list[str] = []
    for name, info in RecsysConfig.model_fields.items():
        if name in leave_out:
            continue
        section = section_of(info)
        if section is None:
            lines += ["", *_setting(name, info, "")]
        else:
            said = _comment((section.__doc__ or "").split("\n\n")[0], "#")
            own_words = section.__doc__ is not None and "BaseModel" not in section.__doc__
            lines += ["", *(said if own_words else ()), f"# {name}:"]
            for key, field in section.model_fields.items():
                lines += _setting(key, field, "  ")
    return "\n".join(lines).strip("\n") + "\n"


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    """The class of a section, None for a plain value."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _setting(name: str, info: FieldInfo, indent: str) -> Iterator[str]:
    if info.description:
        yield from _comment(info.description, f"# {indent}#")
    inner = section_of(info)
    if inner is None:
        yield f"# {indent}{name}: {_value(info)}"
        return
    yield f"# {indent}{name}:"
    for key, field in inner.model_fields.items():
        yield from _setting(key, field, indent + "  ")


def _value(info: FieldInfo) -> str:
    """The default as YAML reads it; null where there is none."""
    default = info.get_default(call_default_factory=True)
    text = json.dumps(None if default is PydanticUndefined else default, ensure_ascii=False)
    # YAML 1.1 takes 3e-05 for a text.
    return text.replace("e-", ".0e-") if isinstance(default, float) and "." not in text else text


def _comment(text: str, lead: str) -> list[str]:
    words = " ".join(text.split())
    return [f"{lead} {line}" for line in textwrap.wrap(words, WIDTH - len(lead) - 1)]
