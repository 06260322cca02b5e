"""The caller's own columns of items and users: which of them can be attributes, and of which kind.

The files say the kind; what the service was told in another type is unknown for that item alone.
"""

from collections.abc import Set

import pyarrow as pa

from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.limits import AMOUNT, ATTRIBUTES, FLAG, RESERVED, TEXT, name_fault
from recsys.data_schemas.tables import CATEGORY_LIMIT
from recsys.ingestion.tables.cells import AttributeCell, attribute_expression
from recsys.ingestion.tables.readers import Source
from recsys.ingestion.tables.table_ingest import TableIngest
from recsys.ingestion.tables.types import group

_KINDS = {"integer": AMOUNT, "float": AMOUNT, "bool": FLAG, "string": TEXT}


def attribute_columns(part: TableIngest, reserved: Set[str] = RESERVED) -> list[AttributeCell]:
    """Columns beyond the standard ones that may be attributes, by name and type; notes say which
    others there are.

    Raises:
        DataRefused: the files have more of them than can be used.
    """
    kinds: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for side, source, _ in part.sides():
        for column, kind in _candidates(part, source, reserved):
            if spelled.setdefault(column.lower(), column) != column:
                part.notes.append(f"column `{column}` is left out: another differs only in case")
            elif side and column not in kinds and len(kinds) >= ATTRIBUTES:
                part.notes.append(
                    f"column `{shown(column)}` of the service's log is left out: there are"
                    f" {ATTRIBUTES} attributes already"
                )
            else:
                kinds.setdefault(column, kind)
        if not side and len(kinds) > ATTRIBUTES:
            raise DataRefused(
                f"the {part.table.name} table has too many attributes",
                where=source.where,
                found=f"{len(kinds):,} columns beyond the standard ones: "
                + ", ".join(map(shown, list(kinds)[:5]))
                + ", …",
                expected=f"at most {ATTRIBUTES}",
                fix="export the columns that are of use",
            )
    return [AttributeCell(column, f"a{n}", kind) for n, (column, kind) in enumerate(kinds.items())]


def _candidates(part: TableIngest, source: Source, reserved: Set[str]) -> list[tuple[str, str]]:
    """(column, kind of attribute) of one side; those that can be none are noted or, where they are
    columns of ours or empty throughout, passed over."""
    partitions = {p.split("=", 1)[0] for f in source.files for p in f.parts if "=" in p}
    known = {*part.table.names, *source.table.names}
    found = []
    for column, kind in source.kinds.items():
        if column in known or column in partitions or group(kind) == "null":
            continue
        fault = name_fault(column, frozenset(reserved))
        if fault is not None:
            part.notes.append(f"column `{shown(column)}` is left out: {fault}")
        elif group(kind) not in _KINDS:
            part.notes.append(
                f"column `{shown(column)}` ({short(kind)}) is left out: no attribute type"
            )
        else:
            found.append((column, _KINDS[group(kind)]))
    return found


def shown(column: str) -> str:
    """A column's name on one line."""
    printable = "".join(ch if ch.isprintable() else "?" for ch in column)
    return printable if len(printable) <= 60 else printable[:60] + "…"


def short(kind: pa.DataType) -> str:
    """A type in a few words; that of a nested column may be pages long."""
    text = str(kind)
    return text if len(text) <= 60 else text[:60] + "…"


def count_losses(part: TableIngest) -> None:
    """Count the cells that are null only because they cannot be read as the attribute's kind."""
    for side, source, raw in part.sides():
        counts: dict[str, list[str]] = {}
        for attribute in part.attributes:
            kind = group(source.kinds.get(attribute.name, pa.null()))
            if kind == "null":
                continue
            warning = {AMOUNT: "attribute_beyond", TEXT: "attribute_long"}.get(attribute.kind, "")
            if _KINDS.get(kind) != attribute.kind:
                warning = "attribute_of_another_type"
            cell = source.inner(attribute.name)
            lost = f"{cell} IS NOT NULL AND {attribute_expression(source, attribute)} IS NULL"
            if kind == "float":
                lost += f" AND NOT isnan({cell})"
            if warning:
                counts.setdefault(warning, []).append(f"count(*) FILTER ({lost})")
        if counts:
            sums = ", ".join(" + ".join(terms) for terms in counts.values())
            row = part.engine.rows(f"SELECT {sums} FROM {raw}")[0]
            for warning, count in zip(counts, row, strict=True):
                part.warn(warning, count, side)


def keep_attributes(part: TableIngest) -> None:
    """Leave string columns out that have too many values to be an attribute."""
    kept = []
    for attribute in part.attributes:
        if attribute.kind == TEXT:
            cell = attribute.inner
            distinct = part.engine.one(f"SELECT approx_count_distinct({cell}) FROM {part.rows}")
            if distinct <= 2 * CATEGORY_LIMIT:
                distinct = part.engine.one(f"SELECT count(DISTINCT {cell}) FROM {part.rows}")
            if distinct > CATEGORY_LIMIT:
                part.notes.append(
                    f"column `{shown(attribute.name)}` has more than {CATEGORY_LIMIT:,} distinct"
                    " texts: left out; shorten it to categories to use it as an attribute"
                )
                continue
        kept.append(attribute)
    part.attributes = kept
