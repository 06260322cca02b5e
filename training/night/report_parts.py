"""The report of a night: everything the page says beside the measured lists."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from recsys.evaluation import drift
from recsys.evaluation.report_context import (
    CAPS,
    EXAMPLE_LENGTH,
    Example,
    GateDecision,
    GateRow,
    Importance,
    RankerFacts,
    ReportContext,
    SourceFact,
    StageCost,
    to_the_minute,
)
from recsys.ranker import Ranker
from recsys.training.groups import history_reader
from recsys.training.night import encoder_age
from recsys.training.night.fit_sources import warm_start_facts
from recsys.training.night.gate import Decision
from recsys.training.night.inputs import Inputs
from recsys.training.night.less_done import less_done
from recsys.training.night.masked_items import masked_facts
from recsys.training.night.night_context import SHARES, Night
from recsys.training.night.position_weights import bias_of
from recsys.training.night.products import FULL, Encoded, RankingData, Recipe
from recsys.training.night.test_lists import caps_of
from recsys.training.night.usage import usage_facts, used
from recsys.training.windows import Windows

SHAP_ROWS = 2000
"""Rows whose contributions make the summary by family."""
AGES_SHOWN = 14
"""Latest measurements of the encoder's quality on the page."""
UNNUMBERED = "not yet numbered: it is registered when this page is written"
"""In place of the version, which the registry gives only to a model whose report is whole."""

CAVEATS = (
    "Offline lists are evaluated on what users did without them: an item they would have liked but "
    "never met counts as wrong.",
    "The released models are fitted on more recent data than the evaluated ones; the overlap of "
    "their lists is given above.",
    "A source alone that has nothing to say, for a new user say, is filled up with popular items.",
    "Ablations keep the same candidates and refit the ranker without the named features, so they say "
    "what the features add, not what recall adds.",
)


def examples(night: Night, ranker: Ranker) -> list[Example]:
    """Real lists of users with a history, some with hits and some without, with the ranker's reasons."""
    inputs, tested, lists = night.data, night.tested.product, night.lists.product[0]
    moments, catalogue, count = (
        tested.moments,
        inputs.tables.catalogue,
        night.config.evaluation.examples,
    )
    read = history_reader(inputs.interactions.histories(), moments)
    order = np.argsort(inputs.chances(moments, "examples"), kind="stable")
    chosen = [int(m) for m in order[:200] if len(read(int(m)).item)][:count]
    out: list[Example] = []
    for m in chosen:
        listed = [int(i) for i in lists.items[m][:EXAMPLE_LENGTH] if i >= 0]
        out.append(
            Example.of(
                len(out) + 1,
                catalogue.title,
                past=read(m).item.tolist(),
                listed=listed,
                scores=lists.scores[m],
                reasons=_reasons(tested, ranker, m, listed),
                relevant=moments.items[moments.rows_of(m)].tolist(),
            )
        )
    return out


def _reasons(
    tested: RankingData, ranker: Ranker, moment: int, shown: Sequence[int]
) -> dict[int, tuple[str, ...]]:
    """The two feature families that lift each shown item most above the mean of its list."""
    low, high = tested.table.offsets[moment : moment + 2]
    if low == high:
        return {}
    x = np.ascontiguousarray(tested.x[low:high])
    added = ranker.contributions(x)
    added = added - added.mean(axis=0)
    place = {int(item): row for row, item in enumerate(tested.table.items[low:high])}
    families = [tested.features.families[name] for name in tested.features.columns]
    out: dict[int, tuple[str, ...]] = {}
    for item in shown:
        if item not in place:
            continue
        total: dict[str, float] = {}
        for family, value in zip(families, added[place[item]], strict=True):
            total[family] = total.get(family, 0.0) + float(value)
        best = sorted(total.items(), key=lambda entry: -entry[1])[:2]
        out[item] = tuple(f"{name} {value:+.2f}" for name, value in best if value > 0)
    return out


def ranker_facts(night: Night, ranker: Ranker) -> RankerFacts:
    """What the ranker is made of, and which families matter."""
    rankers, rows = night.rankers, night.learned.product
    facts = dict(rankers.facts["ranker"])
    parts = facts.pop("validation_ndcg@10", {})
    families = rows.features.families
    importance = [
        Importance(name, families.get(name, ""), gain)
        for name, gain in sorted(rankers.facts["gain"].items(), key=lambda e: -e[1])
        if gain > 0
    ]
    shap: dict[str, float] = {}
    if len(rows.x):
        sample = np.ascontiguousarray(rows.x[:: max(1, len(rows.x) // SHAP_ROWS)][:SHAP_ROWS])
        mean = np.abs(ranker.contributions(sample)).mean(axis=0)
        for name, value in zip(rows.features.columns, mean, strict=True):
            shap[families[name]] = shap.get(families[name], 0.0) + float(value)
        effects = dict(zip(rows.features.columns, map(float, mean), strict=True))
        facts["what of the text it uses"] = text_columns(families, rankers.facts["gain"], effects)
    facts["learned from"] = rankers.facts["learned from"]
    facts["position of the labels"] = rankers.facts["position"]["why"]
    flat = {k: v if not isinstance(v, dict | list) else str(v) for k, v in facts.items()}
    return RankerFacts(flat, parts, importance, shap)


def text_columns(
    families: Mapping[str, str], gain: Mapping[str, float], effect: Mapping[str, float]
) -> str:
    """The text columns by their share of the trees' gain and of the mean effect (|SHAP|, linear part and
    trees), the largest gain first; those that do nothing are counted only."""
    trees, whole = sum(gain.values()) or 1.0, sum(effect.values()) or 1.0
    text = sorted(
        (n for n in effect if families.get(n) == "text"),
        key=lambda n: (-gain.get(n, 0.0), -effect[n]),
    )
    used = [n for n in text if gain.get(n, 0.0) > 0 or effect[n] > 0]
    said = [
        f"{n}: {gain.get(n, 0.0) / trees:.1%} of the gain, {effect[n] / whole:.1%} of the effect"
        for n in used
    ]
    idle = len(text) - len(used)
    return "; ".join([*said, *([f"{idle} more do nothing"] if idle else [])]) or "nothing"


def source_facts(recipe: Recipe) -> list[SourceFact]:
    """What became of each source, in the report's terms."""
    outcomes = {found["name"]: found for found in recipe.facts.get("sources", [])}
    out: list[SourceFact] = []
    for name, tried, reason in recipe.facts.get("applicable", []):
        found = outcomes.get(name)
        out.append(
            SourceFact(name, False, str(reason))
            if not tried or found is None
            else SourceFact(
                name,
                bool(found["kept"]),
                str(found.get("reason") or found["note"] or reason),
                float(found["recall"]),
                dict(recipe.params.get(name, found["params"])),
            )
        )
    return out


def context(night: Night) -> ReportContext:
    """Everything the page shows that is not computed from the lists."""
    ranker = Ranker.load(night.rankers.product / FULL)
    learned, made = night.rankers.facts, night.lists.facts
    best = max(learned["ranker"].get("validation_ndcg@10", {}).values(), default=None)
    return ReportContext(
        title=f"{night.config.name}: night of {time.strftime('%Y-%m-%d', time.gmtime())}",
        created_at=time.time_ns() // 1000,
        model_version=UNNUMBERED,
        data=data_facts(night.data),
        split=split_facts(night),
        release=release_facts(night),
        masked=masked_facts(night),
        seen=seen_facts(night),
        validation={"ndcg@10": best} if best is not None else None,
        stages=[
            StageCost(r.name, r.seconds, r.peak_mb, r.bytes, r.skipped)
            for r in night.runner.outputs
        ],
        elapsed=time.monotonic() - night.began,
        usage=usage_facts(used(night), night.config.prices),
        budget={k: v * night.config.budget_minutes for k, v in SHARES.items()},
        learning_curves=learning_curves(night.encoded),
        encoder=encoder_facts(night),
        ranker=ranker_facts(night, ranker),
        sources=source_facts(night.recipe),
        gate=gate_facts(night.decision),
        leak_checks=night.leak_checks,
        drift=drift.summary(night.drifted),
        parity=[*night.trial.parity, *night.served_parity],
        live=night.live,
        alarms=night.alarms,
        cut_short=less_done(night),
        device=device_facts(night),
        failed_systems={**made["absent"], **made["failed"]},
        warnings=[w for w in night.reporter.warnings if w not in night.alarms],
        examples=examples(night, ranker),
        position_bias=bias_of(learned["position"]),
        caveats=CAVEATS,
    )


def device_facts(night: Night) -> dict[str, object]:
    """The plan: what was measured of the device, and what it affords each part."""
    learned = night.encoded.stage.facts["manifest"].get("learned", {})
    facts: dict[str, object] = {}
    if plan := learned.get("plan"):
        facts["encoder"] = plan["note"]
    if teacher := learned.get("teacher"):
        facts["encoder's teacher"] = teacher["note"]
    return facts | dict(night.recipe.facts.get("device", {}))


def release_facts(night: Night) -> dict[str, object]:
    """What is released beside what was judged, in words."""
    return {
        "evaluated models fitted on events before": "each test cut",
        "released models fitted on events before": to_the_minute(night.data.windows.end),
        CAPS: caps_of(night).in_words(),
        **night.trial.facts(),
        **warm_start_facts(night),
    }


def gate_facts(decision: Decision) -> GateDecision:
    """The decision in the report's terms: what refused or was policy first, then comparisons."""
    rules = sorted(decision.rules, key=lambda rule: (rule.status == "passed", not rule.relative))
    return GateDecision(
        decision.promoted,
        decision.reasons,
        str(decision.champion) if decision.champion is not None else None,
        decision.headline,
        [GateRow(r.name, r.status, r.value, r.limit, r.room, r.relative, r.detail) for r in rules],
        [text for text in (decision.power, *decision.notes) if text],
    )


def learning_curves(encoded: Encoded) -> list[dict[str, float]]:
    """Loss by step of the encoder's fine-tuning, with the validation nDCG where it was measured."""
    learned = encoded.stage.facts["manifest"].get("learned", {})
    points = [
        {"step": float(step), "loss": float(loss)}
        for step, loss in enumerate(learned.get("losses", []), 1)
    ]
    for found in learned.get("validations", []):
        step = int(found.get("step", 0))
        if 1 <= step <= len(points):
            points[step - 1]["val"] = float(found["ndcg"])
    return points


def encoder_facts(night: Night) -> dict[str, object]:
    """Validation of no tuning, warm and cold start; what the tower gained; quality by age."""
    encoded = night.encoded
    manifest = encoded.stage.facts["manifest"]
    learned = manifest.get("learned", {})
    facts: dict[str, object] = {
        "texts longer than it reads": f"{manifest['truncated']:,} of {manifest['texts']:,}",
        "vectors tonight": "{encoded:,} texts encoded, {from_cache:,} from the cache".format(
            **encoded.vectors_stage.facts
        ),
    }
    if "verdict" in learned:
        facts["does tuning help"] = learned["verdict"]
    if "in_company" in learned:
        kept = "kept" if learned["in_company"] else "no more than chance, not kept"
        facts["a history's items ask in the company of what was acted on beside them"] = (
            f"validation nDCG {learned['alone_ndcg']:.4f} → {learned['in_company_ndcg']:.4f}, {kept}"
        )
    for row in learned.get("compared", []):
        facts[f"validation nDCG, {row['name']}"] = f"{row['ndcg']:.4f} in {row['seconds']:.0f} s"
    if layers := learned.get("layers"):
        gained = "kept" if layers["tuned"] else "not better: the layers stay as they were"
        facts["steps of the language model's layers"] = f"{layers['steps']}, {gained}"
    if tower := encoded.vectors_stage.facts.get("tower", {}).get("steps"):
        found = encoded.vectors_stage.facts["tower"]
        verdict = "kept" if found["kept"] else "not better, not kept"
        facts["user tower, fitted again tonight"] = (
            f"validation nDCG {found['ndcg_before']:.4f} → {found['ndcg_after']:.4f} "
            f"in {tower} steps, {verdict}"
        )
    for record in encoder_age.remembered(night)[-AGES_SHOWN:]:
        facts[f"nDCG on new behaviour, night of {to_the_minute(record['end'])}"] = (
            f"{record['ndcg']:.4f} [{record['low']:.4f}, {record['high']:.4f}], encoder "
            f"{record['age_days']:.1f} days old, {record['new_items']:.0%} on items new to it"
        )
    return facts


def data_facts(inputs: Inputs) -> dict[str, object]:
    """Rows, users, items, time range and resolution."""
    events, summary = inputs.interactions, inputs.tables.summary
    facts: dict[str, object] = {
        "events": f"{len(events):,}",
        "users": f"{len(np.unique(events.user)):,}",
        "items": f"{inputs.n_items:,}",
        "event types": ", ".join(events.kinds),
        "time": f"{to_the_minute(int(events.time.min()))} to {to_the_minute(int(events.time.max()))}",
        "time resolution": f"{inputs.tables.resolution.kind}: {inputs.tables.resolution.why}",
    }
    for table, found in dict(summary.get("tables", {})).items():
        broken = found.get("quarantined") if isinstance(found, dict) else None
        if broken:
            facts[f"{table}: rows set aside"] = str(broken)
    return facts


def seen_facts(night: Night) -> dict[str, object]:
    """What the evaluated parts and the released ones have learned from, in words."""
    windows, refitted = night.data.windows, night.served.facts["ranker"].get("released")
    first, last = to_the_minute(windows.test[0]), to_the_minute(windows.test[-1])
    cuts = f"each of {len(windows.test)} test cuts, {first} to {last}"
    learned = "nothing: there is no window before the test"
    if windows.ranker:
        learned = f"what was acted on from {to_the_minute(windows.ranker[0])} to {first}"
    return {
        "encoder, evaluated and released": f"events before {to_the_minute(night.encoded.fit_until)}",
        **_ranker_seen(learned, windows, refitted),
        "sources, evaluated": f"events before {cuts if len(windows.test) > 1 else first}",
        "sources, released": f"events before {to_the_minute(windows.end)}",
        "evaluated on": f"what was acted on from {first} to {to_the_minute(windows.end)}",
    }


def _ranker_seen(
    learned: str, windows: Windows, refitted: Mapping[str, int] | None
) -> dict[str, object]:
    """What was judged and what is released, by name."""
    if refitted is None:
        return {"ranker, evaluated and released": learned}
    again = (
        f"the same recipe, fitted again on {refitted['groups']:,} groups: what was acted on from "
        f"{to_the_minute((windows.ranker or windows.test)[0])} to {to_the_minute(windows.end)}, the tested window included"
    )
    return {"ranker, evaluated": learned, "ranker, released": again}


def split_facts(night: Night) -> dict[str, object]:
    """Which window trained what, and how many moments were tested."""
    windows, moments = night.data.windows, night.tested.product.moments
    return {
        "labels": windows.why,
        "encoder fitted on events before": to_the_minute(night.encoded.fit_until),
        "ranker's cuts": ", ".join(to_the_minute(t) for t in windows.ranker) or "none",
        "test cuts": ", ".join(to_the_minute(t) for t in windows.test),
        "data end": to_the_minute(windows.end),
        "moments tested": f"{len(moments):,}",
        "users tested": f"{len(np.unique(moments.user)):,}",
    }
