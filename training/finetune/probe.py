"""Which encoder, tuned how, suits the data at hand: short fits side by side, with their cost."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recsys.data_schemas.config import EncoderConfig
from recsys.data_schemas.errors import RecsysError
from recsys.encoder.onnx_export import sample_of
from recsys.encoder.pretrained import WEIGHTS, resolve_model, tensor_shapes
from recsys.encoder.runtime import TextEncoder
from recsys.features.interactions import Interactions
from recsys.training.finetune.fit import fit_encoder

WORTH = 1.02
"""Gain of nDCG for which a slower candidate is recommended over a faster one (assumed)."""
SPEED_TEXTS = 64
"""Texts whose encoding is timed."""


@dataclass(frozen=True)
class ProbeRow:
    """One candidate; nDCG is that of actions on held-out items, among these."""

    model: str
    freeze: str
    million_parameters: float
    zero_shot: float
    tuned: float
    seconds: float
    texts_per_second: float
    problem: str = ""


@dataclass(frozen=True)
class Probe:
    """All candidates and the one to take."""

    rows: tuple[ProbeRow, ...]
    recommended: int | None
    """Place in `rows`; None when no candidate could be fitted."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"rows": [asdict(row) for row in self.rows], "recommended": self.recommended}

    def render(self) -> str:
        """A table, best nDCG first, and the recommendation."""
        head = ("model", "freeze", "M param", "zero-shot", "tuned", "fit s", "texts/s")
        lines = [head]
        for row in sorted(self.rows, key=lambda r: -r.tuned):
            if row.problem:
                lines.append((row.model, row.freeze, row.problem.splitlines()[0], "", "", "", ""))
                continue
            numbers = (f"{row.million_parameters:.1f}", f"{row.zero_shot:.4f}", f"{row.tuned:.4f}")
            cost = (f"{row.seconds:.0f}", f"{row.texts_per_second:.0f}")
            lines.append((row.model, row.freeze, *numbers, *cost))
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        if self.recommended is None:
            return text + "\nno candidate could be fitted"
        best = self.rows[self.recommended]
        return (
            f"{text}\nrecommended: encoder.model: {best.model}, encoder.freeze: {best.freeze}\n"
            "(nDCG of what people did on items held out of the fits, among these; a faster candidate is "
            f"taken unless a slower one gains {WORTH - 1:.0%})"
        )


def probe(
    interactions: Interactions,
    texts: Sequence[str],
    config: EncoderConfig,
    *,
    fit_until: int,
    seed: int,
    seconds_each: float,
    models: Sequence[str] = (),
    strategies: Sequence[str] = ("head", "last_n"),
    on_row: Callable[[ProbeRow], None] | None = None,
) -> Probe:
    """Fit each model with each freeze strategy for `seconds_each` and compare them.

    All see the same examples and hold the same items out. A candidate that cannot be
    opened is a row with its problem, not an error.

    Args:
        interactions: events, none later than fit_until (µs UTC).
        texts: [N] text of each item.
        config: settings of the encoder.
        fit_until: time of the last event that may be seen, µs UTC.
        seed: of all draws.
        seconds_each: time for each candidate.
        models: names or folders of models; the config's own when empty.
        strategies: values of `encoder.freeze` to try.
        on_row: called with each row as it is found.
    """
    rows = []
    for model in models or (config.model,):
        for freeze in strategies:
            candidate = config.model_copy(
                update={"model": model, "freeze": freeze, "fine_tune": True}
            )
            rows.append(_row(interactions, texts, candidate, fit_until, seed, seconds_each))
            if on_row is not None:
                on_row(rows[-1])
    return Probe(tuple(rows), _recommend(rows))


def _row(
    interactions: Interactions,
    texts: Sequence[str],
    config: EncoderConfig,
    fit_until: int,
    seed: int,
    seconds: float,
) -> ProbeRow:
    began = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="probe-"))
    try:
        shapes = tensor_shapes(resolve_model(config.model) / WEIGHTS)
        manifest = fit_encoder(
            interactions,
            texts,
            config,
            fit_until=fit_until,
            out_dir=folder / "encoder",
            seed=seed,
            budget_seconds=seconds,
        )
        took = time.perf_counter() - began
        size = sum(_product(shape) for shape in shapes.values()) / 1e6
        learned = manifest["learned"]
        return ProbeRow(
            config.model,
            config.freeze,
            size,
            learned["start_ndcg"],
            learned["best_ndcg"],
            took,
            _speed(folder / "encoder", texts),
        )
    except RecsysError as error:
        return ProbeRow(config.model, config.freeze, 0.0, 0.0, 0.0, 0.0, 0.0, str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _speed(folder: Path, texts: Sequence[str]) -> float:
    """Texts per second of the fitted encoder on texts of all lengths."""
    encoder = TextEncoder.open(folder)
    tokens = sample_of(encoder.tokenizer(list(texts))[0], SPEED_TEXTS)
    encoder.model(tokens[:2])
    began = time.perf_counter()
    encoder.model(tokens)
    return len(tokens) / (time.perf_counter() - began)


def _recommend(rows: Sequence[ProbeRow]) -> int | None:
    """The best nDCG; among those within `WORTH` of it the fastest to encode, then to fit."""
    good = [i for i, row in enumerate(rows) if not row.problem]
    if not good:
        return None
    best = max(rows[i].tuned for i in good)
    near = [i for i in good if rows[i].tuned * WORTH >= best]
    # Speeds within a tenth are the same speed.
    return max(near, key=lambda i: (round(rows[i].texts_per_second, -1), rows[i].tuned))
