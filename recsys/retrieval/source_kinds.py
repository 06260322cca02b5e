"""Name → class of every source we ship, imported when first asked for."""

import importlib
import json
from pathlib import Path
from typing import Final

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.features.protocols import RecallSource
from recsys.retrieval.fitted_source import FittableSource

FITTABLE: Final = {
    "popular": "recsys.retrieval.collaborative.popularity:Popular",
    "recent": "recsys.retrieval.collaborative.popularity:Recent",
    "item_item": "recsys.retrieval.collaborative.item_item:ItemItem",
    "transitions": "recsys.retrieval.collaborative.item_item:Transitions",
    "attributes": "recsys.retrieval.content.attributes:Attributes",
    "bm25": "recsys.retrieval.content.bm25:Bm25",
    "als": "recsys.retrieval.collaborative.als:Als",
    "ease": "recsys.retrieval.collaborative.ease:Ease",
    "sequence": "recsys.retrieval.sequence.source:SequenceSource",
}
"""Sources in order of cost, the cheapest first."""
READABLE: Final = {**FITTABLE, "text": "recsys.encoder.tower:InterestSource"}


def source_class(name: str) -> type[FittableSource]:
    """The class behind a name that can be fitted.

    Raises:
        UsageError: no such source.
    """
    if name not in FITTABLE:
        raise UsageError(
            f"there is no source '{name}'",
            where="sources.use",
            found=name,
            expected=f"one of {', '.join(FITTABLE)}",
            fix="correct the name",
        )
    found: type[FittableSource] = _resolve(FITTABLE[name])
    return found


def load_source(folder: Path) -> RecallSource:
    """Open a source's folder, whatever its kind.

    Raises:
        DataRefused: the folder does not hold a source we know.
    """
    try:
        name = json.loads((folder / "source.json").read_text(encoding="utf-8"))["name"]
        path = READABLE[name]
    except (OSError, ValueError, KeyError) as error:
        raise DataRefused(
            "this folder does not hold a source",
            where=str(folder),
            found=f"{type(error).__name__}: {error}",
            expected=f"a source.json naming one of {', '.join(READABLE)}",
            fix="train again, or restore the bundle",
        ) from error
    source: RecallSource = _resolve(path).load(folder)
    return source


def _resolve(path: str):  # type: ignore[no-untyped-def]
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
