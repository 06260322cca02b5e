"""Which event types the events have, what each counts as, and how its values read.

Whether a number is a rating is never guessed from the number: the config or the type's name says so.
On which scale ratings are is read off the values where the config does not say, and is told.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.meaning import OUTLIERS, EventMeaning, Scale, recognised
from recsys.features.draws import Doubles
from recsys.ingestion.tables.duck import DuckEngine, quote


def types_of(duck: DuckEngine, config: RecsysConfig, source: str) -> dict[str, Any]:
    """`event_types` (facts by type, the most frequent first) and `scales` (those recognised, by
    type, null where none fits) of the events that `source`, an SQL relation, holds."""
    scales = _scales(duck, config.events.unscaled(), source)
    meaning = config.events.meaning().with_scales(scales)
    rows = duck.rows(
        f"SELECT {c.EVENT_TYPE}, count(*), count({c.VALUE}) FROM {source}"
        " GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    types = {str(kind): _facts(duck, meaning, source, str(kind), n, v) for kind, n, v in rows}
    for kind, facts in types.items():
        declared = config.events.types.get(kind)
        facts["told"] = declared is not None and (declared.rating, declared.scale) != (None, None)
    return {"event_types": types, "scales": scales}


def _scales(duck: DuckEngine, ratings: Iterable[str], source: str) -> dict[str, Scale | None]:
    """The scale of each type of ratings, as its values tell it."""
    wanted = ", ".join(quote(name) for name in ratings)
    if not wanted:
        return {}
    rows = duck.rows(
        f"SELECT {c.EVENT_TYPE}, min({c.VALUE}), quantile_disc({c.VALUE}, {OUTLIERS}),"
        f" quantile_disc({c.VALUE}, {1 - OUTLIERS}), count({c.VALUE}) FROM {source}"
        f" WHERE {c.EVENT_TYPE} IN ({wanted}) AND {c.VALUE} IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    return {str(kind): recognised(lowest, low, high, n) for kind, lowest, low, high, n in rows}


def _facts(
    duck: DuckEngine, meaning: EventMeaning, source: str, kind: str, events: int, values: int
) -> dict[str, Any]:
    """What one type counts as, and how many of its ratings are positive, neutral and negative."""
    weights, grades = meaning.of([kind], np.zeros(1, np.int16), np.array([np.nan]))
    facts: dict[str, Any] = {
        "events": events,
        "values": values,
        "weight": float(weights[0]),
        "grade": int(grades[0]),
        "known": kind in meaning.types or (kind in meaning.ratings and values == events),
        "rating": kind in meaning.ratings,
    }
    if kind in meaning.ratings and values:
        value, times = _values(duck, source, kind)
        sides = meaning.polarity([kind], np.zeros(len(value), np.int16), value)
        facts |= {
            name: int(times[side].sum())
            for name, side in zip(("positive", "neutral", "negative"), sides, strict=True)
        }
        scale = meaning.ratings[kind]
        outside = np.zeros(len(value), bool)
        if scale is not None:
            outside = (value < scale[0]) | (value > scale[1])
        facts |= {"scale": scale, "outside": int(times[outside].sum())}
    return facts


def _values(duck: DuckEngine, source: str, kind: str) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """(distinct values, how often each) of one type."""
    table = duck.arrow(
        f"SELECT {c.VALUE}, count(*) AS times FROM {source} WHERE {c.EVENT_TYPE} = {quote(kind)}"
        f" AND {c.VALUE} IS NOT NULL GROUP BY 1"
    )
    return table[c.VALUE].to_numpy().astype(np.float64), table["times"].to_numpy()
