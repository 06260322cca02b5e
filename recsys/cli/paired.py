"""Two versions on the lists that both their nights judged: paired differences by user."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LISTS, FIGURES = "report.parquet", "report.json"
KEYS = ("user", "time")
RESAMPLES = 1000
METRICS = 8
"""Metrics compared at most, in the report's order."""

Table = dict[str, npt.NDArray[Any]]
Differences = dict[str, dict[str, float | int | None]]


def paired_differences(first: Path, second: Path, seed: int) -> Differences:
    """Metric → {difference, low, high, groups, users} of the first report minus the second.

    Lists are matched by user and moment; empty where a report is gone or none are common. The
    interval is a bootstrap over users.
    """
    a, b = _main_lists(first), _main_lists(second)
    if a is None or b is None:
        return {}
    rows_a, rows_b = _common(a, b)
    names = [n for n in a if n not in KEYS and n in b][:METRICS]
    if not len(rows_a) or not names:
        return {}
    from recsys.evaluation.uncertainty import bootstrap

    columns = np.stack([a[n][rows_a] - b[n][rows_b] for n in names], axis=1).astype(np.float64)
    resampled = bootstrap(columns, a["user"][rows_a], resamples=RESAMPLES, seed=seed)
    found: Differences = {}
    for place, name in enumerate(names):
        value, low, high, groups, users = resampled.interval(place)
        found[name] = {
            "difference": value,
            "low": low,
            "high": high,
            "groups": groups,
            "users": users,
        }
    return found


def _main_lists(report: Path) -> Table | None:
    """User, time and metrics of a report's main system by list; None where it is not kept."""
    import pyarrow.parquet as pq

    folder = report if report.is_dir() else report.parent
    try:
        main = json.loads((folder / FIGURES).read_text(encoding="utf-8"))["evaluation"]["main"]
        table = pq.read_table(folder / LISTS)
    except (OSError, ValueError, KeyError):
        return None
    prefix = f"{main}/"
    columns = {name: table[name].to_numpy() for name in KEYS if name in table.column_names}
    if len(columns) < len(KEYS):
        return None
    return columns | {
        name.removeprefix(prefix): table[name].to_numpy()
        for name in table.column_names
        if name.startswith(prefix)
    }


def _common(a: Table, b: Table) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of the lists that both hold, in the same order."""
    place = {key: row for row, key in enumerate(zip(*(b[k].tolist() for k in KEYS), strict=True))}
    pairs = [
        (row, place[key])
        for row, key in enumerate(zip(*(a[k].tolist() for k in KEYS), strict=True))
        if key in place
    ]
    rows = np.array(pairs, np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
