"""The page of a comparison of two versions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.evaluation.comparison import Comparison
from recsys.evaluation.page import (
    FORMAT,
    curve_plot,
    day_plots,
    page_caveats,
    segment_plot,
    template,
    verdict,
)
from recsys.storage.files import atomic_write


def render_comparison(
    comparison: Comparison,
    titles: Sequence[str] | npt.NDArray[np.object_],
    users: Mapping[int, str],
    warnings: Sequence[str],
) -> str:
    """The page of two versions as text."""
    e = comparison.evaluation
    page: str = template("compare.html.j2").render(
        x=comparison,
        e=e,
        titles=titles,
        users=users,
        warnings=[*warnings, *e.warnings],
        verdict=verdict(e),
        plots={
            "k": [curve_plot(e, metric) for metric in e.curves],
            "segments": [segment_plot(e, part, rows) for part, rows in e.segments.items() if rows],
            "days": day_plots(e),
        },
        depth=min(e.ks),
        caveats=page_caveats(e),
    )
    return page


def write_comparison(
    comparison: Comparison,
    out_dir: Path,
    *,
    titles: Sequence[str] | npt.NDArray[np.object_],
    users: Mapping[int, str] | None = None,
    warnings: Sequence[str] = (),
) -> Path:
    """Write compare.html and compare.json; returns the page's path.

    Args:
        comparison: what `compare_lists` found.
        out_dir: folder of the page; made where it is missing.
        titles: [N] title of each item.
        users: user code → id; codes are shown where it is None.
        warnings: sentences that a reader must know before the numbers.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    tree = {"format": FORMAT, "verdict": verdict(comparison.evaluation)} | comparison.to_json()
    atomic_write(out_dir / "compare.json", json.dumps(tree, ensure_ascii=False, allow_nan=False))
    page = out_dir / "compare.html"
    atomic_write(page, render_comparison(comparison, titles, users or {}, warnings))
    return page
