"""What can be set of a source: each param with its default, unit, bounds and the values worth trying.

A source declares them as fields of its `Params`, one docstring each. Settings, their JSON schema, the
reference pages, the tuning and the messages about wrong values all read that declaration.
"""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from recsys.data_schemas.errors import UsageError

PARAMS_SETTING = "sources.dials"
FREE = "decay"
"""Param of a user's own `PARAMS` that is read at each request."""


class SourceParams(BaseModel):
    """Base of every source's `Params`."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class Param(NamedTuple):
    """One param as it is declared."""

    default: float
    tries: tuple[float, ...]
    """Values that tuning compares."""
    unit: str
    least: float
    most: float | None
    free: bool
    """Whether a fitted source reads it at each request, so that trying a value costs no fit."""
    about: str

    @property
    def bounds(self) -> str:
        """In words."""
        if self.most is None:
            return f"at least {self.least:g}"
        return f"{self.least:g} to {self.most:g}"


def param(
    default: float,
    *tries: float,
    unit: str,
    least: float = 0.0,
    most: float | None = None,
    free: bool = False,
    about: str | None = None,
) -> Any:
    """A field of a source's `Params`.

    Args:
        default: where nothing is set or tuned.
        tries: values that tuning compares; without any, it stays as it is.
        unit: of the value, in a word.
        least: smallest value that makes sense.
        most: largest; None where there is none.
        free: see `Param`.
        about: what it does, where no docstring stands below the field.
    """
    extra: Any = {"unit": unit, "tries": [float(value) for value in tries], "free": free}
    return Field(float(default), ge=least, le=most, description=about, json_schema_extra=extra)


def declared(kind: type[SourceParams]) -> dict[str, Param]:
    """Every param by name, in the order of the class."""
    return {
        name: Param(
            said["default"],
            tuple(said.get("tries", ())),
            said.get("unit", ""),
            said.get("minimum", 0.0),
            said.get("maximum"),
            said.get("free", False),
            said.get("description", ""),
        )
        for name, said in kind.model_json_schema().get("properties", {}).items()
    }


def undeclared(kind: type[SourceParams]) -> list[str]:
    """What a `Params` leaves unsaid. Docstrings are only missed where the text of the class is at hand:
    typed into an interpreter, or compiled alone, it has none."""
    known = declared(kind)
    missing = [f"Params.{name}: `param(…, unit=…)`" for name, p in known.items() if not p.unit]
    silent = [f"Params.{name}: a docstring" for name, p in known.items() if not p.about]
    try:
        return missing + silent if silent and inspect.getsource(kind) else missing
    except (OSError, TypeError):
        return missing


def params_class(given: Mapping[str, tuple[float, tuple[float, ...]]]) -> type[SourceParams]:
    """The declaration of a user's own `PARAMS`: name → (default, values worth trying)."""
    said: Any = {"unit": "its own", "about": "see its class"}
    fields: Any = {
        name: (float, param(default, *tries, free=name == FREE, **said))
        for name, (default, tries) in given.items()
    }
    return create_model("Params", __base__=SourceParams, **fields)


def resolved(source: str, kind: type[SourceParams], given: Mapping[str, float]) -> dict[str, float]:
    """Defaults overlaid with what is given.

    Raises:
        UsageError: a param the source does not have, or a value beyond its bounds.
    """
    try:
        return cast(dict[str, float], kind(**given).model_dump())
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise _refused(source, declared(kind), name, given[name]) from None


def _refused(source: str, known: Mapping[str, Param], name: str, value: object) -> UsageError:
    listed = ", ".join(f"{n} ({p.bounds})" for n, p in known.items()) or "none: it has no params"
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        return UsageError(
            f"source '{source}' has no parameter '{name}'",
            where=f"{PARAMS_SETTING}.{source}",
            found=name,
            expected=(f"did you mean `{near[0]}`? " if near else "") + f"Its params: {listed}",
            fix="correct the name or leave it out",
        )
    meant = known[name]
    about = f" ({meant.about})" if meant.about else ""
    return UsageError(
        f"param '{name}' of source '{source}' is not usable",
        where=f"{PARAMS_SETTING}.{source}.{name}",
        found=value,
        expected=f"a finite number, {meant.bounds}{about}. Its params: {listed}",
        fix="correct the value or leave it out",
    )
