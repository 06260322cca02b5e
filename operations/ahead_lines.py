"""How far a night's ranker is ahead of simpler systems, list by list: lines for the terminal."""

import json
from pathlib import Path

COMPARED = ("popularity", "als", "text alone", "fusion of sources", "without text")
"""Shown where the report has them; the report has all."""


def differences(report: Path | None) -> list[str]:
    """Paired differences of the report's main metric with their intervals, and over whom; nothing
    where there is no report to read."""
    if report is None:
        return []
    try:
        told = json.loads(report.with_name("report.json").read_text(encoding="utf-8"))
        evaluation = told["evaluation"]
        metric, main = evaluation["main_metric"], evaluation["main"]
        found = {
            name: by_metric[metric]["interval"]
            for name, by_metric in evaluation["differences"].items()
            if name in COMPARED and by_metric[metric]["interval"]["low"] is not None
        }
        users, lists = evaluation["users"], evaluation["groups"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not found:
        return []
    width = max(map(len, found))
    return [
        f"{metric} of {main} minus that of the others, paired by list"
        f" ({users:,} users, {lists:,} lists, 95% intervals over users):",
        *(
            f"  {name:<{width}}  {x['value']:+.4f} [{x['low']:+.4f}, {x['high']:+.4f}]"
            for name, x in sorted(found.items(), key=lambda pair: COMPARED.index(pair[0]))
        ),
    ]
