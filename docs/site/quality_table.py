"""Writes the README's table of quality from the newest report of a demonstration.

python docs/site/quality_table.py demo
"""

import json
import re
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- quality: docs/site/quality_table.py -->", "<!-- end of quality -->"
SHOWN = (
    "recsys",
    "fusion of sources",
    "item_item",
    "als",
    "ease",
    "bm25",
    "text alone",
    "popularity",
)
METRICS = ("ndcg@10", "recall@100")


def table(report: dict) -> str:
    """The systems of a report, best first, with intervals and the paired difference to the whole."""
    found = report["evaluation"]
    rows = [(name, found["systems"][name]) for name in SHOWN if name in found["systems"]]
    rows.sort(key=lambda row: -row[1]["ndcg@10"]["value"])
    lines = [
        f"The demonstration's own report: {found['groups']} lists of {found['users']} people, in each all "
        f"{found['catalogue_size']:,} films compete,",
        "after dates that no model has seen; 95 % intervals over people.",
        "",
        "| system | nDCG@10 | recall@100 | recsys less this, nDCG@10, paired |",
        "|---|---|---|---|",
    ]
    for name, values in rows:
        cells = [interval(values[metric]) for metric in METRICS]
        apart = found["differences"].get(name, {}).get("ndcg@10")
        shown = interval(apart["interval"], signed=True) if apart else ""
        lines.append(
            f"| {f'**{name}**' if name == 'recsys' else name} | {' | '.join(cells)} | {shown} |"
        )
    return "\n".join(lines)


def interval(value: dict, signed: bool = False) -> str:
    """`.211 (.178–.250)`."""

    def short(number: float) -> str:
        text = f"{number:+.3f}" if signed else f"{number:.3f}"
        return text.replace("0.", ".", 1).replace("-", "−")

    between = " to " if signed else "–"
    return f"{short(value['value'])} ({short(value['low'])}{between}{short(value['high'])})"


def replaced(readme: str, new: str) -> str:
    """The README with the table between its marks."""
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", readme)
    if len(parts) != 5:
        raise SystemExit(f"{README} has no {BEGIN} … {END}")
    return "".join([*parts[:2], f"\n\n{new}\n\n", *parts[3:]])


def main(demo: Path) -> None:
    """Read the newest report below a demonstration and write the table."""
    reports = sorted(demo.glob("work/reports/*/report.json"))
    if not reports:
        raise SystemExit(f"there is no report below {demo}; run `recsys demo {demo}` first")
    report = json.loads(reports[-1].read_text(encoding="utf-8"))
    README.write_text(replaced(README.read_text(encoding="utf-8"), table(report)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
