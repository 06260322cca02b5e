"""The summary of an ingestion as a person reads it: what is there, what is wrong, what to do."""

from collections.abc import Iterator, Mapping
from typing import Any

from recsys.data_schemas.meaning import STARS
from recsys.data_schemas.tables import RULES, WARNINGS
from recsys.ingestion.tables.table_ingest import say_example

LOG_SHOWN = "the service's log"
SHOWN_TYPES = 20
"""Event types listed; a column of ids taken for event types would fill the screen."""
SHOWN_NAME = 20
"""Characters of an event type's name that are shown."""


def render(summary: Mapping[str, Any], usable: bool = True) -> str:
    """Text of a whole summary, with a line on what to do for each rule broken.

    Args:
        summary: of an ingestion.
        usable: whether a night can learn from what was accepted; what it lacks is said elsewhere.
    """
    lines = [*_tables(summary), *_times(summary), *_types(summary)]
    for name, table in summary["tables"].items():
        lines += _findings(name, table)
    tables = summary["tables"].values()
    broken = sum(table["quarantined"] for table in tables)
    logged = sum(sum(table["log_rules"].values()) for table in tables)
    lines += ["", _verdict(broken, logged, usable)]
    return "\n".join(lines)


def findings(summary: Mapping[str, Any]) -> list[str]:
    """One line per rule broken, warning and note, with table and file, for a night's log."""
    lines = []
    for name, table in summary["tables"].items():
        for in_log, place in _places(table):
            lines += [
                f"{name} ({place}): {count:,} {_rows(count)} set aside by `{rule}`: {RULES[rule].says};"
                f" do: {_advice(rule, in_log)}"
                for rule, count in _rules(table, in_log).items()
            ]
            lines += [f"{name} ({place}): {line.strip()}" for line in _remarks(table, in_log)]
    for kind, found in list(summary["event_types"].items())[:SHOWN_TYPES]:
        lines += [f"event type {kind[:SHOWN_NAME]}: {text}" for text in _doubts(found)]
    return lines


def _tables(summary: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'table':<12} {'rows':>12} {'accepted':>12} {'set aside':>12}   where"
    for name, table in summary["tables"].items():
        files = f" ({table['files']} files)" if table["files"] > 1 else ""
        yield (
            f"{name:<12} {table['rows']:>12,} {table['accepted']:>12,}"
            f" {table['quarantined']:>12,}   {table['source']}{files}"
        )
    yield f"{'users':<12} {'':>12} {summary['users']:>12,} {'':>12}   with events or impressions"


def _times(summary: Mapping[str, Any]) -> Iterator[str]:
    time, resolution = summary["time"], summary["resolution"]
    yield ""
    yield f"time         {time['first']} to {time['last']}"
    yield f"resolution   {resolution['kind']}: {resolution['why']}"


def _types(summary: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{'event type':<{SHOWN_NAME}} {'events':>12}  counts as"
    types = list(summary["event_types"].items())
    for name, found in types[:SHOWN_TYPES]:
        yield f"{name[:SHOWN_NAME]:<{SHOWN_NAME}} {found['events']:>12,}  {_meaning(found)}"
    if len(types) > SHOWN_TYPES:
        yield f"and {len(types) - SHOWN_TYPES:,} more event types; is the column the right one?"


def _meaning(found: Mapping[str, Any]) -> str:
    says = []
    rated = found["values"] if found["rating"] else 0
    if rated < found["events"]:
        says.append(f"weight {found['weight']:g}, grade {found['grade']}")
    if rated:
        says.append(
            f"rating in `value`: {found['positive']:,} positive, {found['neutral']:,} neutral,"
            f" {found['negative']:,} negative"
        )
    return "; ".join([*says, *(f"WARNING: {text}" for text in _doubts(found))])


def _doubts(found: Mapping[str, Any]) -> Iterator[str]:
    """What may be wrong with how a type is read, and how the config corrects it."""
    if not found["known"]:
        yield "not a known type; give it weight and grade under `events.types`"
    if not found["rating"]:
        if found["values"] and not found["told"]:
            yield (
                f"`value` of {found['values']:,} {_events(found['values'])} is taken for a quantity"
                " and says nothing of liking; `rating: true` under `events.types` makes it a"
                " rating, `rating: false` ends this warning"
            )
        return
    if not found["values"]:
        return
    scale = found["scale"]
    if scale is None:
        yield "on no scale that is known, so all are neutral; say `scale: [worst, best]`"
        return
    said = f"{scale[0]:g} to {scale[1]:g}"
    if tuple(scale) != STARS and not found["told"]:
        yield (
            f"not stars; read on a scale of {said}, as the values say; `scale: [worst, best]`"
            " under `events.types` settles it"
        )
    if found["outside"]:
        yield (
            f"{found['outside']:,} outside the scale of {said} {_count_as(found['outside'])}"
            " neutral; say `scale: [worst, best]` if it is another"
        )
    if not found["positive"]:
        yield f"none is positive on a scale of {said}; say `scale: [worst, best]` if it is another"


def _events(count: int) -> str:
    return "event" if count == 1 else "events"


def _count_as(count: int) -> str:
    return "counts as" if count == 1 else "count as"


def _findings(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    """Rules broken, with examples and what to do; then warnings and notes. What the service wrote to its
    log stands apart: nothing about it can be done in the caller's files."""
    for in_log, place in _places(table):
        found = [*_broken(table, in_log), *_remarks(table, in_log)]
        if found:
            yield ""
            yield f"{name} ({place}):"
            yield from found


def _places(table: Mapping[str, Any]) -> tuple[tuple[bool, str], ...]:
    """(whether it is the log, how it is called) of where rows come from."""
    return (False, table["source"]), (True, LOG_SHOWN)


def _rules(table: Mapping[str, Any], in_log: bool) -> dict[str, int]:
    return dict(table["log_rules" if in_log else "rules"])


def _advice(rule: str, in_log: bool) -> str:
    return (in_log and RULES[rule].do_in_log) or RULES[rule].do


def _broken(table: Mapping[str, Any], in_log: bool) -> Iterator[str]:
    for rule, count in _rules(table, in_log).items():
        yield f"  {count:,} {_rows(count)} set aside by `{rule}`: {RULES[rule].says}"
        for example in table["examples"]:
            if example["rule"] == rule and example["log"] == in_log:
                yield f"      {say_example(example).split(': ', 1)[1]}"
        yield f"      do: {_advice(rule, in_log)}"


def _remarks(table: Mapping[str, Any], in_log: bool) -> Iterator[str]:
    for warning, whole in table["warnings"].items():
        logged = table["log_warnings"].get(warning, 0)
        count = logged if in_log else whole - logged
        if count:
            yield f"  {count:,} {WARNINGS[warning]}"
    for note in () if in_log else table["notes"]:
        yield f"  note: {note}"


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"


def _verdict(broken: int, logged: int, usable: bool) -> str:
    said = "The tables can be used" if usable else "No night can use the tables"
    if broken:
        verb = "is" if broken == 1 else "are"
        said += f"; {broken:,} {_rows(broken)} {verb} left out."
    else:
        said += "; no row breaks a rule."
    if logged:
        verb = "is" if logged == 1 else "are"
        said += f" Of {LOG_SHOWN} {logged:,} {_rows(logged)} {verb} left out."
    return said
