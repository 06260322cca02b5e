"""From measured numbers and context to one self-contained page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from recsys.evaluation import plots
from recsys.evaluation.drift import RISE, in_digits
from recsys.evaluation.evaluation import (
    AHEAD,
    BEHIND,
    HISTORY,
    UNCLEAR,
    Difference,
    Evaluation,
    Meaning,
    Segment,
    plain,
)
from recsys.evaluation.plots import MOST_LINES, Plot
from recsys.evaluation.report_context import (
    Check,
    Importance,
    ReportContext,
    SourceFact,
    StageCost,
    day_and_time,
)
from recsys.evaluation.segments import BY_HISTORY, NO_HISTORY, RETURNING
from recsys.evaluation.uncertainty import Interval
from recsys.storage.files import atomic_file, atomic_write, human_seconds

FORMAT = 1
"""Version of report.json; raised when a key is renamed or removed."""
TOO_GOOD = 1.25
"""Validation above this multiple of test, and above its interval, raises an alarm (assumed:
out-of-time loss measured on real logs stayed well under a fifth)."""
MOST_FEATURES = 20
MOST_NAMED = 4
"""Beaten systems named in the verdict, the strongest; those not beaten are all named."""
MOST_SEGMENTS = 12
"""Segments drawn; the table below a plot holds all."""
Row = TypeVar("Row", Check, SourceFact, StageCost, Importance)


def verdict(evaluation: Evaluation) -> str:
    """One sentence, made from the paired intervals alone: ahead, behind, cannot tell; of whom; on
    how many users."""
    metric = evaluation.main_metric
    if evaluation.systems[evaluation.main][metric].users == 0:
        return f"Nothing was measured: no group has a relevant item, so {metric} has no value."
    own, differences, others = _headline(evaluation)
    sides: dict[str, list[str]] = {AHEAD: [], BEHIND: [], UNCLEAR: []}
    for name in _front(evaluation)[1:]:
        sides[differences[name].verdict].append(name)
    if len(sides[AHEAD]) > MOST_NAMED:
        rest = len(sides[AHEAD]) - MOST_NAMED
        sides[AHEAD] = [*sides[AHEAD][:MOST_NAMED], f"{rest} weaker others"]
    parts = [
        f"{text} {_listed(sides[side])}"
        for side, text in (
            (AHEAD, "ahead of"),
            (BEHIND, "behind"),
            (UNCLEAR, "not to be told apart from"),
        )
        if sides[side]
    ]
    compared = "; ".join(parts) if parts else "measured alone, with nothing to compare it with"
    scope = (
        f"the whole catalogue of {evaluation.catalogue_size:,} items"
        if evaluation.sampled_candidates is None
        else f"a sample of {evaluation.sampled_candidates:,} candidates (not the whole catalogue)"
    )
    return (
        f"On {metric}, {evaluation.main} ({_number(own.value)}) is {compared}, "
        f"measured on {own.users:,} {'returning ' if others else ''}users ({own.groups:,} lists) over "
        f"{scope}.{others}"
    )


def _headline(evaluation: Evaluation) -> tuple[Interval, Mapping[str, Difference], str]:
    """The main system's number and its lead over each other, of returning people where others were
    asked too; and what is to be said of those others."""
    main, metric = evaluation.main, evaluation.main_metric
    parts = {part.label: part for part in evaluation.segments.get(BY_HISTORY, ())}
    returning, new = parts.get(RETURNING), parts.get(NO_HISTORY)
    if returning is None or new is None or not returning.groups or not new.groups:
        everybody = {name: found[metric] for name, found in evaluation.differences.items()}
        return evaluation.systems[main][metric], everybody, ""
    share = new.groups / (new.groups + returning.groups)
    others = (
        f" {NO_HISTORY.capitalize()} are {share:.0%} of the lists and shown apart: "
        f"{metric} {_number(new.systems[main].value)}."
    )
    return returning.systems[main], returning.differences, others


def alarms(evaluation: Evaluation, context: ReportContext) -> list[str]:
    """What must be on the first screen: given alarms, leaks found, drift that stops, broken
    parity, and a validation figure far above the test figure."""
    found = list(context.alarms)
    for check in _rows(Check, context.leak_checks):
        if check.refuses:
            found.append(f"Leak suspected by the check “{check.name}”: {check.detail}")
    for check in _rows(Check, context.parity):
        if not check.passed:
            found.append(f"Batch and online features differ in “{check.name}”: {check.detail}")
    for row in context.drift or ():
        if row.get("level") == "stop":
            found.append(f"Drift beyond its limit: {row.get('what')} ({row.get('detail', '')})")
    for metric, value in (context.validation or {}).items():
        found += _too_good(evaluation, metric, value)
    return found


def leak_hints(context: ReportContext) -> list[str]:
    """Failed leak checks that refuse nothing: to be read with care, but no alarm."""
    checks = _rows(Check, context.leak_checks)
    failed = [check for check in checks if not check.passed and not check.refuses]
    return [f"{check.name}: not so, {check.detail}" for check in failed]


def _too_good(evaluation: Evaluation, metric: str, validation: float) -> list[str]:
    test = evaluation.systems[evaluation.main].get(metric)
    if test is None or test.value is None or test.high is None:
        return []
    if validation <= max(test.high, TOO_GOOD * test.value):
        return []
    return [
        f"Validation {metric} {_number(validation)} is far above test {_number(test.value)} "
        f"(interval up to {_number(test.high)}): something leaks into validation, or times changed."
    ]


def write_report(evaluation: Evaluation, context: ReportContext, out_dir: Path) -> Path:
    """Write report.html, report.json and report.parquet into `out_dir`; returns the page's path.

    Each file is written aside and renamed, so a reader never sees half of one.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_groups(evaluation, out_dir / "report.parquet")
    tree = {
        "format": FORMAT,
        "verdict": verdict(evaluation),
        "alarms": alarms(evaluation, context),
        "evaluation": evaluation.to_json(),
        "context": plain(context),
    }
    atomic_write(out_dir / "report.json", json.dumps(tree, ensure_ascii=False, allow_nan=False))
    page = out_dir / "report.html"
    atomic_write(page, render(evaluation, context))
    return page


def render(evaluation: Evaluation, context: ReportContext) -> str:
    """The whole page as text."""
    stages = _by_stage(_rows(StageCost, context.stages))
    page: str = template("report.html.j2").render(
        e=evaluation,
        c=context,
        verdict=verdict(evaluation),
        alarms=alarms(evaluation, context),
        missing=_missing(context),
        core=[m for m in evaluation.systems[evaluation.main] if _meaning(evaluation, m).first],
        every=list(evaluation.systems[evaluation.main]),
        best=_best(evaluation),
        others={n: d for n, d in evaluation.differences.items() if n not in evaluation.variants},
        ablations={n: d for n, d in evaluation.differences.items() if n in evaluation.variants},
        meanings={name: meaning.about for name, meaning in evaluation.meanings.items()},
        checks=_rows(Check, context.leak_checks),
        hints=leak_hints(context),
        parity=_rows(Check, context.parity),
        sources=_rows(SourceFact, context.sources),
        stages=stages,
        spent=sum(stage.seconds or 0.0 for stage in stages),
        kept=sum(stage.kept_seconds or 0.0 for stage in stages),
        drift=_by_level(context.drift or ()),
        plots=_plots(evaluation, context),
        caveats=[*context.caveats, *page_caveats(evaluation)],
        failed=context.failed_systems,
    )
    return page


def template(name: str) -> Any:
    """A page template of this package; every text put into it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("recsys.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "relative": _relative,
        "chance": _chance,
        "moment": day_and_time,
        "fact": _fact,
        "digits": _digits,
        "ruled": _ruled,
        "drawn": Markup,
        "bytes": _bytes,
        "seconds": _seconds,
    }
    return environment.get_template(name)


def _write_groups(evaluation: Evaluation, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_file(path) as aside:
        pq.write_table(pa.table(dict(evaluation.per_group)), aside)


def _plots(evaluation: Evaluation, context: ReportContext) -> dict[str, list[Plot]]:
    """Section of the page → its plots."""
    return {
        "lead": _forest(evaluation),
        "k": [curve_plot(evaluation, metric) for metric in evaluation.curves],
        "segments": [
            segment_plot(evaluation, part, rows)
            for part, rows in evaluation.segments.items()
            if rows
        ],
        "days": day_plots(evaluation),
        "scores": _score_plots(evaluation),
        "popularity": _popularity_plots(evaluation),
        "learning": _learning_plots(context),
        "ranker": _ranker_plots(context),
        "position": _position_plots(context),
        "drift": _drift_plots(context),
    }


def _forest(e: Evaluation) -> list[Plot]:
    """The lead over each other system, of those whom the headline is about."""
    _, differences, others = _headline(e)
    rows = {name: differences[name].interval for name in _front(e)[1:] if name in differences}
    if not rows:
        return []
    who = f", {RETURNING}" if others else ""
    values = "; ".join(f"{name} {_signed(found.value)}" for name, found in rows.items())
    return [
        plots.forest_plot(
            f"How far {e.main} is ahead of each other system{who}",
            f"{e.main_metric} of {e.main} minus that of the other, list by list, with intervals: "
            f"{values}. An interval without 0 is a difference that is no chance.",
            rows,
            f"difference in {e.main_metric}",
        )
    ]


def curve_plot(e: Evaluation, metric: str) -> Plot:
    at = e.curve_ks[-1]
    ends = ", ".join(f"{n} {_number(e.curves[metric][n][-1].value)}" for n in _front(e))
    return plots.line_plot(
        f"{metric} by list length",
        f"{metric} at k from {e.curve_ks[0]} to {at}; at {at}: {ends}.",
        e.curve_ks,
        {name: e.curves[metric][name] for name in _front(e)},
        x_label="k (places looked at)",
        y_label=metric,
        log_x=True,
    )


def segment_plot(e: Evaluation, part: str, rows: Sequence[Segment]) -> Plot:
    """The largest segments; all are in the table below the plots."""
    drawn = sorted(rows, key=lambda s: -s.groups)[:MOST_SEGMENTS]
    rows = [s for s in rows if s in drawn]
    values = "; ".join(f"{s.label} {_number(s.systems[e.main].value)}" for s in rows)
    return plots.segment_plot(
        f"By {part}",
        f"{e.main_metric} of {e.main} by {part}: {values}. A hollow mark rests on too "
        "few users for an interval.",
        rows,
        _front(e)[: 4 if len(rows) <= 6 else 3],
        e.main_metric,
    )


def day_plots(e: Evaluation) -> list[Plot]:
    if len(e.days) < 2:
        return []
    values = [d.systems[e.main].value for d in e.days]
    known = [v for v in values if v is not None]
    alt = (
        f"{e.main_metric} of {e.main} over {len(e.days)} stretches from {e.days[0].label} to "
        f"{e.days[-1].label}: between {_number(min(known, default=None))} and "
        f"{_number(max(known, default=None))}."
    )
    return [plots.day_plot("By day", alt, e.days, _front(e)[:3], e.main_metric)]


def _score_plots(e: Evaluation) -> list[Plot]:
    if not e.score_bins:
        return []
    first, last = e.score_bins[0], e.score_bins[-1]
    alt = (
        f"Share of hits by score of {e.main}: {_number(first.observed)} in the lowest bin, "
        f"{_number(last.observed)} in the highest."
    )
    chance = e.scores_are_probabilities
    title = "Reliability of the scores" if chance else "Hits by score"
    return [plots.reliability_plot(title, alt, e.score_bins, as_chance=chance)]


def _popularity_plots(e: Evaluation) -> list[Plot]:
    if not e.exposure:
        return []
    known = [n for n in (HISTORY, *_front(e)) if n in e.exposure]
    top = ", ".join(f"{name} {e.exposure[name][0]:.0%}" for name in known)
    return [
        plots.share_plot(
            "Who gets shown",
            f"Share of shown places by tenth of the catalogue; most popular tenth: {top}.",
            {n: e.exposure[n] for n in [*_front(e)[: MOST_LINES - 1], HISTORY] if n in e.exposure},
            "tenth of the items, most popular first",
            "share of shown places",
        )
    ]


def _learning_plots(context: ReportContext) -> list[Plot]:
    rows = [r for r in context.learning_curves or () if "step" in r]
    losses = [r["loss"] for r in rows if r.get("loss") is not None]
    if not losses:
        return []
    alt = (
        f"Training loss falls from {_number(losses[0])} to {_number(losses[-1])} over "
        f"{len(losses)} records."
        if losses[-1] < losses[0]
        else f"Training loss goes from {_number(losses[0])} to {_number(losses[-1])}."
    )
    return [plots.learning_plot("Learning curve of the encoder", alt, rows)]


def _ranker_plots(context: ReportContext) -> list[Plot]:
    found: list[Plot] = []
    if context.ranker is None:
        return found
    rows = sorted(_rows(Importance, context.ranker.importance), key=lambda r: -r.gain)
    rows = rows[:MOST_FEATURES]
    if rows:
        alt = "Largest gain: " + ", ".join(f"{r.feature} ({r.family})" for r in rows[:5]) + "."
        bars = [(r.feature, r.gain) for r in rows]
        families = [r.family for r in rows]
        found.append(plots.bar_plot("Gain by feature", alt, bars, "gain in the trees", families))
    shap = sorted(context.ranker.shap.items(), key=lambda r: -r[1])
    if shap:
        alt = "Mean effect by family: " + ", ".join(f"{n} {_number(v)}" for n, v in shap) + "."
        found.append(plots.bar_plot("SHAP by feature family", alt, shap, "mean |SHAP|"))
    return found


DRIFT_BARS = 14
"""Findings drawn, those nearest to or furthest beyond their limit."""


def _drift_plots(context: ReportContext) -> list[Plot]:
    """How far the data moved, in multiples of the limit that warns."""
    rows = [
        (str(row["what"]), float(str(row["value"])) / float(str(row["limit"])), str(row["level"]))
        for row in context.drift or ()
        if row.get("measure") in ("PSI", "change of share", RISE)
        and float(str(row.get("limit", 0))) > 0
    ]
    rows = sorted(rows, key=lambda row: -row[1])[:DRIFT_BARS]
    if not rows:
        return []
    beyond = sum(share >= 1 for _, share, _ in rows)
    alt = f"{rows[0][0]} moved most, {rows[0][1]:.1f} times its limit; {beyond} are beyond theirs."
    bars, levels = [(what, share) for what, share, _ in rows], [level for *_, level in rows]
    return [plots.bar_plot("Drift", alt, bars, "multiples of the limit that warns", levels)]


def _position_plots(context: ReportContext) -> list[Plot]:
    bias = context.position_bias
    if bias is None or not len(bias.examination):
        return []
    alt = (
        f"Chance of being looked at falls to {_number(bias.examination[-1])} of the first "
        f"place's at place {len(bias.examination)}."
    )
    return [
        plots.band_plot(
            "Position bias",
            alt,
            bias.examination,
            bias.low,
            bias.high,
            "place in the shown list",
            "looked at, relative to place 1",
        )
    ]


def _front(e: Evaluation) -> list[str]:
    """The main system first, then the strongest competitors."""
    others = [n for n in e.systems if n != e.main and n not in e.variants]
    others.sort(key=lambda n: -(e.systems[n][e.main_metric].value or 0.0))
    return [e.main, *others]


def _best(e: Evaluation) -> dict[str, str]:
    """metric → system with the best mean (not said where neither direction is better)."""
    found = {}
    for metric in e.systems[e.main]:
        better = _meaning(e, metric).better
        known = {n: v[metric].value for n, v in e.systems.items()}
        ranked = [(v if better == "higher" else -v, n) for n, v in known.items() if v is not None]
        if ranked and better != "neither":
            found[metric] = max(ranked)[1]
    return found


def _meaning(e: Evaluation, metric: str) -> Meaning:
    return e.meanings[metric.split("@")[0]]


def _missing(context: ReportContext) -> list[str]:
    """Names of the parts that the run did not hand over."""
    parts = {
        "data summary": context.data,
        "split": context.split,
        "what is released": context.release,
        "validation figures": context.validation,
        "stage costs": context.stages,
        "division of the time budget": context.budget,
        "learning curves of the encoder": context.learning_curves,
        "facts about the ranker": context.ranker,
        "facts about the sources": context.sources,
        "gate decision": context.gate,
        "leak checks": context.leak_checks,
        "parity of batch and online features": context.parity,
        "drift": context.drift,
        "example lists": context.examples,
        "position bias": context.position_bias,
        "off-policy estimates": context.off_policy,
    }
    return [name for name, part in parts.items() if part is None]


def page_caveats(e: Evaluation) -> list[str]:
    """What every offline evaluation leaves open, in words a reader can use."""
    caveats = [
        "Offline, an item counts as wrong when the user did not act on it, even if nobody ever "
        "showed it to them: real value may be higher, and systems like the one that made the log "
        "are flattered.",
        "The intervals answer for the choice of users in this window, not for other weeks, other "
        "seeds of training or changes on your site.",
        "Nothing here measures what showing these lists would change; only an experiment does.",
    ]
    if len(e.differences) > 1:
        caveats.append(
            f"Verdicts are corrected (Holm) for {len(e.differences)} comparisons per metric; "
            "segment intervals are wider because they hold for all segments together."
        )
    return caveats


def _rows(kind: type[Row], given: Iterable[Any] | None) -> list[Row]:
    """Rows given as the named tuple or as a plain one."""
    return [row if isinstance(row, kind) else kind(*row) for row in given or ()]


class StageTotal(NamedTuple):
    """What all runs of one stage cost together."""

    name: str
    seconds: float | None
    """Spent in this run; None where all outputs are of earlier ones."""
    kept_seconds: float | None
    """What outputs of earlier runs that were used again cost when they were made; None without any."""
    peak_mb: float | None
    bytes_written: int | None
    note: str


def _by_stage(stages: Sequence[StageCost]) -> list[StageTotal]:
    """One row per name, in order of first appearance: a source is fitted once per cut."""
    runs: dict[str, list[StageCost]] = {}
    for stage in stages:
        runs.setdefault(stage.name, []).append(stage)
    return [_stage_total(name, found) for name, found in runs.items()]


def _stage_total(name: str, runs: Sequence[StageCost]) -> StageTotal:
    done = [r for r in runs if not r.skipped]
    kept = [r.seconds for r in runs if r.skipped]
    peaks = [r.peak_mb for r in done if r.peak_mb is not None]
    written = [r.bytes_written for r in done if r.bytes_written is not None]
    notes = [f"{len(runs)} outputs"] if len(runs) > 1 else []
    if kept:
        count = "" if len(runs) == 1 else f"{len(kept)} "
        notes.append(f"{count}unchanged, earlier output used")
    return StageTotal(
        name,
        sum(r.seconds for r in done) if done else None,
        sum(kept) if kept else None,
        max(peaks, default=None),
        sum(written) if written else None,
        ", ".join(notes) or "—",
    )


def _by_level(
    rows: Sequence[Mapping[str, object]],
) -> dict[str, list[Mapping[str, object]]]:
    """Drift rows worth reading at once, and those that are fine."""
    loud = [row for row in rows if row.get("level") != "ok"]
    return {"loud": loud, "quiet": [row for row in rows if row.get("level") == "ok"]}


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return ", ".join(names[:-1]) + " and " + names[-1]


def _number(value: float | None) -> str:
    """Four significant places at most; large numbers with thousands; "—" for nothing."""
    if value is None or value != value:
        return "—"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.2f}"
    return f"{value:.4f}"


def _chance(p: float | None) -> str:
    """A p-value."""
    if p is None:
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _relative(value: float | None) -> str:
    """A relative difference in percent; above tenfold in words of multiples."""
    if value is None:
        return "—"
    if value >= 9:
        return f"× {1 + value:.0f}"
    return ("+" if value > 0 else "−" if value < 0 else "") + f"{abs(value):.1%}"


def _signed(value: float | None) -> str:
    if value is None:
        return "—"
    return ("+" if value > 0 else "−" if value < 0 else "") + _number(abs(value))


def _fact(value: object) -> str:
    """Any value of a facts table, in words."""
    if value is None:
        return "not said"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Interval):
        return f"{_number(value.value)} ({_number(value.low)} to {_number(value.high)})"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_fact(v)}" for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_fact(v) for v in value)
    return str(value)


def _digits(value: object) -> str:
    """A value of the drift table: numbers in three significant digits."""
    return in_digits(value) if isinstance(value, float) else _fact(value)


def _ruled(value: float | None, relative: bool) -> str:
    """A number of the gate's table, in percent where it is a share of another's value."""
    if value is None:
        return "—"
    return _relative(value) if relative else in_digits(value, 4)


def _bytes(value: int | None) -> str:
    if value is None:
        return "—"
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"


def _seconds(value: float | None) -> str:
    return "—" if value is None else human_seconds(value)
