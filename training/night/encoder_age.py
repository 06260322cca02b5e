"""How well the encoder says what people do next, night by night, and when that calls for a new one.

Each night the encoder in use ranks what users did in the ranker's windows, which it has not seen and
which the test takes no part in. The first measurement after a refresh is what later ones are held
against: a clear drop, or many more events on items that the encoder has never met, make it due.

Shapes: M moments, C candidates.
"""

import json
from typing import Any

import numpy as np

from recsys.encoder.tower import InterestSource
from recsys.evaluation.lists import Truth
from recsys.evaluation.metrics import discount
from recsys.storage.files import atomic_write, hash_json
from recsys.storage.stages import Stage, facts
from recsys.training.groups import history_reader
from recsys.training.night.inputs import SHOWN, Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import Encoded
from recsys.training.night.tune_encoder import CODE
from recsys.training.windows import moments_at

KEPT = 100
"""Measurements that are remembered."""
MOMENTS = 600
CANDIDATES = 1000
"""Items drawn, half by popularity and half evenly, that what the user did is ranked among."""
FEW = 50
"""Fewer moments decide nothing."""
DROP = 0.1
"""Fall of the nDCG, relative to the first measurement, that calls for a new encoder, when even the
upper end of its 95 % interval lies below (assumed)."""
NEW_ITEMS = 0.2
"""Rise of the share of events on items without an event in the encoder's fit that does (assumed)."""


def measure(night: Night, encoded: Encoded) -> str | None:
    """Measure the encoder in use; returns why a new one is due, None where it is not."""
    until, end = encoded.encoder_until, night.data.windows.end
    # The encoder's own fit names it: vectors change with every new item.
    encoder = hash_json([until, night.section("encoder")])[:16]
    found = night.runner.run(
        Stage(
            "encoder-age",
            {
                "vectors": encoded.vectors_stage.key,
                "tables": night.data.key,
                "until": until,
                "seed": night.config.seed,
            },
            lambda out: quality(night.data, encoded.source(), until, night.config.seed),
            facts,
            code=(
                *CODE,
                *SHOWN,
                "recsys.evaluation.metrics",
                "recsys.evaluation.popularity_at",
                "recsys.retrieval",
                "recsys.training.groups",
                "recsys.training.impression_groups",
                "recsys.training.windows",
            ),
            personal=False,
        )
    ).product
    if not found.get("moments"):
        return None
    record = {"encoder": encoder, "end": end, **found}
    known = [r for r in remembered(night) if r["end"] < record["end"] or r["encoder"] != encoder]
    atomic_write(night.workspace.encoder_ages, json.dumps([*known, record][-KEPT:]))
    first = next((r for r in known if r["encoder"] == encoder), record)
    return degraded(first, record)


def degraded(first: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Why an encoder is due for a refresh, given its first and its latest measurement."""
    if min(first["moments"], now["moments"]) < FEW:
        return None
    if now["high"] < (1 - DROP) * first["ndcg"]:
        return f"its nDCG on new behaviour fell from {first['ndcg']:.4f} to {now['ndcg']:.4f}"
    if now["new_items"] - first["new_items"] > NEW_ITEMS:
        return (
            f"{now['new_items']:.0%} of the events are on items it has not met, "
            f"{first['new_items']:.0%} when it was new"
        )
    return None


def remembered(night: Night) -> list[dict[str, Any]]:
    """Earlier measurements, oldest first."""
    try:
        records: list[dict[str, Any]] = json.loads(
            (night.workspace.encoder_ages).read_text(encoding="utf-8")
        )
    except (OSError, ValueError):
        return []
    return records


def quality(inputs: Inputs, source: InterestSource, until: int, seed: int) -> dict[str, Any]:
    """nDCG, with its 95 % interval, of the first thing each user did in the ranker's windows."""
    windows, events = inputs.windows, inputs.interactions
    cuts = windows.ranker or windows.cuts[:1]
    moments = Truth.join([moments_at(events, cut, windows.label_end(cut)) for cut in cuts])
    moments = moments.sample(MOMENTS, inputs.chances(moments, "encoder age"))
    rng = np.random.default_rng(seed)
    count = np.bincount(events.item[events.time < cuts[0]], minlength=inputs.n_items)
    drawn = _candidates(rng, count)
    read = history_reader(events.histories(), moments)
    gains = []
    for m in range(len(moments)):
        wanted = int(moments.items[moments.offsets[m]])
        history, now = read(m), int(moments.time[m])
        items = np.append(drawn[~np.isin(drawn, [*history.item, wanted])], wanted).astype(np.int32)
        scores = source.score(history, items, now)[:, 0]
        if np.isfinite(scores[-1]):
            rank = (scores > scores[-1]).sum() + ((scores == scores[-1]).sum() - 1) / 2
            gains.append(float(discount(rank)))
    met = np.zeros(inputs.n_items, bool)
    met[events.item[events.time < until]] = True
    new = 1 - met[moments.items].mean() if len(moments.items) else 0.0
    value = float(np.mean(gains)) if gains else 0.0
    error = 1.96 * float(np.std(gains)) / len(gains) ** 0.5 if gains else 0.0
    return {
        "moments": len(gains),
        "ndcg": value,
        "low": value - error,
        "high": value + error,
        "new_items": float(new),
        "age_days": round((windows.ranker[-1] - until) / 86_400_000_000, 2)
        if windows.ranker
        else 0.0,
    }


def _candidates(rng: np.random.Generator, count: Any) -> Any:
    """Distinct items [at most C]: half of the draws by popularity, half evenly."""
    n = len(count)
    weight = count + 1e-9
    popular = rng.choice(n, CANDIDATES // 2, p=weight / weight.sum())
    return np.union1d(popular, rng.integers(0, n, CANDIDATES // 2)).astype(np.int32)
