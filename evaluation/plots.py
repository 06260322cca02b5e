"""Plots of the report as inline SVG: text stays text, colours are never the only sign.

matplotlib is imported inside the functions; no global state of it is used.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.evaluation.evaluation import Segment
from recsys.evaluation.uncertainty import Interval

COLOURS = ("#005ea8", "#b34700", "#00695c", "#8e24aa", "#6b5900", "#c2185b", "#37474f", "#2e7d32")
"""Each at least 4.5:1 on white."""
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)))
WIDTH, HEIGHT = 5.4, 3.5
"""Inches; narrow enough that a phone shows the text at nearly its size."""
LEGEND_CHARACTERS = 76
"""Characters of a legend row at this width (measured on the drawn page)."""
LEGEND_ROW = 0.2
"""Inches of a legend row."""
MOST_LINES = 8
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e2e2",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Plot:
    """A drawn figure: `svg` is safe markup of ours, `alt` says in words what it shows."""

    title: str
    svg: str
    alt: str


def line_plot(
    title: str,
    alt: str,
    x: Sequence[float],
    lines: Mapping[str, Sequence[Interval]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
) -> Plot:
    """Means with interval bands, one line per system (the first `MOST_LINES` of them).

    Args:
        title: shown above the plot.
        alt: what the plot says, in words, for readers who cannot see it.
        x: places on the x axis, one for each value of a line.
        lines: system → a mean with its interval for each x.
        x_label: label of the x axis.
        y_label: label of the y axis.
        log_x: whether the x axis is logarithmic.
    """

    def draw(axes: Any) -> None:
        for place, (name, values) in enumerate(list(lines.items())[:MOST_LINES]):
            style = _style(place)
            y = [_number(v.value) for v in values]
            axes.plot(x, y, label=name, markersize=4, **style)
            if place < 2:
                low, high = [_number(v.low) for v in values], [_number(v.high) for v in values]
                axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(list(x), [f"{v:g}" for v in x])
            axes.minorticks_off()
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(bottom=0)

    return _figure(title, alt, draw)


def segment_plot(
    title: str, alt: str, segments: Sequence[Segment], systems: Sequence[str], y_label: str
) -> Plot:
    """One row per segment, one marker with its interval per system.

    Args:
        title: shown above the plot.
        alt: what the plot says, in words, for readers who cannot see it.
        segments: rows, each with a mean and an interval per system.
        systems: names of the systems drawn.
        y_label: name of the metric, under the axis.
    """

    def draw(axes: Any) -> None:
        step = 0.7 / max(len(systems), 1)
        for place, name in enumerate(systems):
            style = _style(place)
            for row, segment in enumerate(segments):
                found = segment.systems[name]
                if found.value is None:
                    continue
                y = row + (place - (len(systems) - 1) / 2) * step
                low = found.value if found.low is None else found.low
                high = found.value if found.high is None else found.high
                axes.plot([low, high], [y, y], color=style["color"], linewidth=1.5)
                axes.plot(
                    found.value,
                    y,
                    style["marker"],
                    color=style["color"],
                    markersize=5,
                    # Hollow: too few users for an interval.
                    markerfacecolor="white" if found.low is None else style["color"],
                    clip_on=False,
                )
            axes.plot([], [], style["marker"], color=style["color"], markersize=5, label=name)
        axes.set_yticks(range(len(segments)), [_cut(s.label, 26) for s in segments])
        axes.set_ylim(len(segments) - 0.4, -0.6)
        axes.set(xlabel=y_label)
        axes.set_xlim(left=0)

    height = max(2.2, 0.8 + len(segments) * (0.11 * len(systems) + 0.16))
    return _figure(title, alt, draw, height=height)


def forest_plot(title: str, alt: str, rows: Mapping[str, Interval], x_label: str) -> Plot:
    """One row per other system: the main one minus it, with its interval, beside a line at 0.

    Args:
        title: shown above the plot.
        alt: what the plot says, in words, for readers who cannot see it.
        rows: other system → difference; one without bounds is a hollow mark.
        x_label: what the difference is of, under the axis.
    """
    known = {name: d for name, d in rows.items() if d.value is not None}

    def draw(axes: Any) -> None:
        axes.axvline(0.0, color="#37474f", linewidth=1)
        for row, found in enumerate(known.values()):
            sure = found.low is not None and found.high is not None
            if sure:
                axes.plot([found.low, found.high], [row, row], color=COLOURS[0], linewidth=1.5)
            face = COLOURS[0] if sure else "white"
            axes.plot(found.value, row, "o", color=COLOURS[0], markersize=5, markerfacecolor=face)
        axes.set_yticks(range(len(known)), [_cut(name, 26) for name in known])
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set(xlabel=x_label)

    return _figure(title, alt, draw, height=max(1.8, 0.8 + 0.26 * len(known)))


def day_plot(
    title: str, alt: str, days: Sequence[Segment], systems: Sequence[str], y_label: str
) -> Plot:
    """One mean per day (or stretch of days) and system.

    Args:
        title: shown above the plot.
        alt: what the plot says, in words, for readers who cannot see it.
        days: days in order, each with a mean per system.
        systems: names of the systems drawn.
        y_label: label of the y axis.
    """

    def draw(axes: Any) -> None:
        x = range(len(days))
        for place, name in enumerate(systems):
            style = _style(place)
            values = [d.systems[name] for d in days]
            axes.plot(x, [_number(v.value) for v in values], label=name, markersize=4, **style)
            if place == 0:
                low, high = [_number(v.low) for v in values], [_number(v.high) for v in values]
                axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        every = max(1, -(-len(days) // 6))
        axes.set_xticks(list(x)[::every], [d.label for d in days][::every], rotation=30, ha="right")
        axes.set(ylabel=y_label)
        axes.set_ylim(bottom=0)

    return _figure(title, alt, draw)


def bar_plot(
    title: str,
    alt: str,
    rows: Sequence[tuple[str, float]],
    x_label: str,
    groups: Sequence[str] = (),
) -> Plot:
    """Horizontal bars, largest on top; `groups` (one per row) colours and names families.

    Args:
        title: shown above the plot.
        alt: what the plot says, in words, for readers who cannot see it.
        rows: (name, value), the largest first.
        x_label: label of the x axis.
        groups: the family of each row, which colours it; no colours when empty.
    """

    def draw(axes: Any) -> None:
        names = list(dict.fromkeys(groups))
        hatches = ("", "//", "..", "xx", "\\\\", "oo", "++", "--")
        for row, (_, value) in enumerate(rows):
            place = names.index(groups[row]) if groups else 0
            label = groups[row] if groups and groups.index(groups[row]) == row else None
            axes.barh(
                row,
                value,
                color=COLOURS[place % len(COLOURS)],
                hatch=hatches[place % len(hatches)],
                edgecolor="white",
                label=label,
                height=0.75,
            )
        axes.set_yticks(range(len(rows)), [_cut(name, 30) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set(xlabel=x_label)
        axes.grid(axis="y", visible=False)

    height = max(2.0, 1.0 + 0.24 * len(rows))
    return _figure(title, alt, draw, height=height)


def learning_plot(title: str, alt: str, rows: Sequence[Mapping[str, float]]) -> Plot:
    """Loss by step, and the validation metric on a second axis where there is one."""

    def draw(axes: Any) -> None:
        loss = [(r["step"], r["loss"]) for r in rows if r.get("loss") is not None]
        first, second = _style(0), _style(1)
        if loss:
            axes.plot(*zip(*loss, strict=True), label="training loss", markersize=0, **first)
        axes.set(xlabel="step", ylabel="training loss")
        checks = [(r["step"], r["val"]) for r in rows if r.get("val") is not None]
        if checks:
            other = axes.twinx()
            other.grid(visible=False)
            other.spines["right"].set_visible(True)
            other.plot(*zip(*checks, strict=True), label="validation nDCG", markersize=4, **second)
            other.set_ylabel("validation nDCG")
            other.ticklabel_format(axis="y", useOffset=False)

    return _figure(title, alt, draw)


def reliability_plot(title: str, alt: str, bins: Sequence[Any], *, as_chance: bool) -> Plot:
    """Observed share of hits by mean score of the bin; the diagonal where scores are chances."""

    def draw(axes: Any) -> None:
        x, y = [b.predicted for b in bins], [b.observed for b in bins]
        axes.plot(x, y, label="observed" if as_chance else None, markersize=5, **_style(0))
        if as_chance:
            top = max([*x, *y, 1e-9])
            axes.plot([0, top], [0, top], color="#767676", linestyle=":", label="perfect")
        axes.set(xlabel="mean score of the bin", ylabel="share of hits")
        axes.set_ylim(bottom=0)

    return _figure(title, alt, draw)


def share_plot(
    title: str, alt: str, lines: Mapping[str, Sequence[float]], x_label: str, y_label: str
) -> Plot:
    """Plain lines over places 1, 2, ….; used for exposure by popularity and position bias.

    Args:
        title: shown above the plot.
        alt: what the plot says, in words, for readers who cannot see it.
        lines: name → values at the places 1, 2, ….
        x_label: label of the x axis.
        y_label: label of the y axis.
    """

    def draw(axes: Any) -> None:
        for place, (name, values) in enumerate(list(lines.items())[:MOST_LINES]):
            x = range(1, len(values) + 1)
            axes.plot(x, values, label=name, markersize=4, **_style(place))
        longest = max((len(v) for v in lines.values()), default=1)
        axes.set_xticks(range(1, longest + 1, max(1, longest // 10)))
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(bottom=0)

    return _figure(title, alt, draw)


def band_plot(
    title: str,
    alt: str,
    middle: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    x_label: str,
    y_label: str,
) -> Plot:
    """One line with its interval over places 1, 2, ….

    Args:
        title: shown above the plot.
        alt: what the plot says, in words, for readers who cannot see it.
        middle: values at the places 1, 2, ….
        low: lower ends of their intervals.
        high: upper ends of their intervals.
        x_label: label of the x axis.
        y_label: label of the y axis.
    """

    def draw(axes: Any) -> None:
        x = range(1, len(middle) + 1)
        axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(x, middle, markersize=4, **_style(0))
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(bottom=0)

    return _figure(title, alt, draw)


def _figure(
    title: str,
    alt: str,
    draw: Callable[[Any], None],
    *,
    height: float = HEIGHT,
) -> Plot:
    """Draw on a figure of its own and return it as inline SVG with unique ids."""
    import matplotlib
    from matplotlib.figure import Figure

    salt = hashlib.sha256(f"{title}{alt}".encode()).hexdigest()[:12]
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        # The reader's browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        _legend(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(title, _inline(out.getvalue(), salt, title), alt)


def _inline(document: str, salt: str, title: str) -> str:
    """The <svg> element alone: no prolog, no metadata, ids made unique, hidden from readers of
    the alt text (the figure around it carries that)."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="', f'id="p{salt}', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\1p{salt}", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _OPENING, svg, count=1, flags=re.S)
    return svg.strip()


_OPENING = (
    r'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" '
    r'viewBox="\1" aria-hidden="true" focusable="false">'
)


def _style(place: int) -> dict[str, Any]:
    place %= len(COLOURS)
    width = 2.4 if place == 0 else 1.5
    return {
        "color": COLOURS[place],
        "marker": MARKERS[place],
        "linestyle": DASHES[place],
        "linewidth": width,
    }


def _legend(figure: Any) -> None:
    """Above everything, never over the data; as many columns as the names allow."""
    handles: list[Any] = []
    labels: list[str] = []
    for each in figure.axes:
        more_handles, more_labels = each.get_legend_handles_labels()
        handles += more_handles
        labels += more_labels
    if not labels:
        return
    labels = [_cut(label, 40) for label in labels]
    longest = max(len(label) for label in labels)
    columns = max(1, min(4, len(labels), int(LEGEND_CHARACTERS // (longest + 6))))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * rows)
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=2.2,
        columnspacing=1.0,
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _cut(text: str, length: int) -> str:
    """Text for an axis: short, and no "$", which matplotlib would read as mathematics."""
    text = text.replace("$", "＄")
    return text if len(text) <= length else text[: length - 1] + "…"
