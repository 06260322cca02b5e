"""SQL of one column of a source in our own type, whatever its owner's type: what cannot be read is null."""

from dataclasses import dataclass

from recsys.data_schemas.limits import AMOUNT, FLAG, NUMBER, SOUND, TEXT_LENGTH, VISIBLE
from recsys.data_schemas.tables import Column, Kind
from recsys.ingestion.tables.duck import quote
from recsys.ingestion.tables.readers import Source
from recsys.ingestion.tables.types import group


@dataclass(frozen=True)
class AttributeCell:
    """A column beyond the standard ones."""

    name: str
    inner: str
    """Its name within the engine; a caller's name never gets there."""
    kind: str
    """See `limits.attribute_value`."""

    @property
    def target(self) -> str:
        """Type of the engine."""
        return {AMOUNT: "DOUBLE", FLAG: "BOOLEAN"}.get(self.kind, "VARCHAR")


def expression(source: Source, column: Column) -> str:
    """SQL of a known column in our own type; a typed null where the source lacks it.

    A number beyond `limits.NUMBER` is null, and so is a blank id that need not be there; a time
    beyond the calendar is infinite.
    """
    target = {
        Kind.ID: "VARCHAR",
        Kind.TEXT: "VARCHAR",
        Kind.TAGS: "VARCHAR[]",
        Kind.TIME: "TIMESTAMPTZ",
        Kind.NUMBER: "DOUBLE",
        Kind.BOOL: "BOOLEAN",
        Kind.IDS: "VARCHAR[]",
        Kind.NUMBERS: "DOUBLE[]",
        Kind.VECTOR: "FLOAT[]",
    }[column.kind]
    kind = source.kinds.get(column.name)
    if kind is None or group(kind) == "null":
        return f"CAST(NULL AS {target})"
    cell = source.inner(column.name)
    if column.kind is Kind.TAGS and group(kind) == "string":
        return _tags_of_text(f"CAST({cell} AS VARCHAR)")
    if column.kind is Kind.TIME:
        moment = f"coalesce(TRY_CAST({cell} AS TIMESTAMPTZ), 'infinity'::TIMESTAMPTZ)"
        return f"CASE WHEN {cell} IS NOT NULL THEN {moment} END"
    if column.kind is Kind.NUMBER:
        return number(cell)
    if column.kind is Kind.ID and not column.required:
        return f"CASE WHEN NOT {blank(cell)} THEN CAST({cell} AS VARCHAR) END"
    if column.kind is Kind.VECTOR:
        # A number that a float cannot hold is null, which the check of vectors names.
        return f"list_transform({cell}, lambda x: TRY_CAST(x AS FLOAT))"
    return f"CAST({cell} AS {target})"


def number(cell: str) -> str:
    """SQL: a cell as a number; null where it is none, or too large for one."""
    as_number = f"TRY_CAST({cell} AS DOUBLE)"
    # Asked about NaN apart: DuckDB takes a comparison for true that a file's least and largest
    # values promise, and these leave NaN out.
    return f"CASE WHEN isfinite({as_number}) AND abs({as_number}) <= {NUMBER} THEN {as_number} END"


def _tags_of_text(text: str) -> str:
    """SQL: tags written as one string, as JSON or Python show a list, or divided by `|` or `,`."""
    return (
        f"CASE WHEN trim({text}) LIKE '[%]' THEN coalesce(CASE WHEN json_valid({text})"
        f""" THEN json_transform({text}, '["VARCHAR"]') END, TRY_CAST({text} AS VARCHAR[]))"""
        f" ELSE regexp_split_to_array({text}, '\\s*[|,]\\s*') END"
    )


def attribute_expression(source: Source, attribute: AttributeCell) -> str:
    """SQL of an attribute in its own type: null where the source lacks it or has another type.

    The service's log holds an attribute that was sent in several types as text: booleans as Python
    writes them, and numbers too, whole ones without a point.
    """
    kind = group(source.kinds[attribute.name]) if attribute.name in source.kinds else "null"
    if kind == "null":
        return f"CAST(NULL AS {attribute.target})"
    cell = source.inner(attribute.name)
    if attribute.kind == AMOUNT and kind != "bool":
        return number(cell)
    if attribute.kind == FLAG and kind == "bool":
        return cell
    if attribute.kind == FLAG and kind in ("integer", "float"):
        return f"CASE {cell} WHEN 1 THEN true WHEN 0 THEN false END"
    if attribute.kind == FLAG and kind == "string":
        yes, no = "('True', '1.0', '1')", "('False', '0.0', '0')"
        return f"CASE WHEN {cell} IN {yes} THEN true WHEN {cell} IN {no} THEN false END"
    if attribute.kind not in (AMOUNT, FLAG) and kind == "string":
        return f"CASE WHEN length({cell}) <= {TEXT_LENGTH} THEN CAST({cell} AS VARCHAR) END"
    return f"CAST(NULL AS {attribute.target})"


def blank(cell: str) -> str:
    """SQL: a text is null or holds nothing visible."""
    return f"NOT coalesce(regexp_matches(CAST({cell} AS VARCHAR), {quote(VISIBLE)}), false)"


def sound(cell: str, length: int) -> str:
    """SQL: a text is one that `limits.is_sound` finds sound."""
    return (
        f"coalesce(regexp_full_match({cell}, {quote(SOUND)}) AND length({cell}) <= {length}, false)"
    )
