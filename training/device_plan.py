"""What a device affords: measured speed, free memory and minutes in, a plan out. Nothing here computes.

On a processor the plan is what it always was: settings as they stand, epochs counted from the number of
events. Nothing is timed there, so that every machine comes to the same. On a GPU twenty steps are timed
at each size, and the share of `budget_minutes` is spent on what they say: the sequence model's width,
blocks, negatives, epochs and members, the encoder's layers, texts and batches. What is larger is only tried:
held-out actions decide whether it stays (`training.sources.tune`, `training.finetune.loop`).

Shapes: N items, P predicted positions, t numbers of a text's vector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

GB: Final = 1e9
MEMORY_SHARE: Final = 0.7
"""Share of the free memory that a plan may take (assumed: allocators leave holes)."""
FLOAT: Final = 4
"""Bytes of a number."""
COPIES: Final = 5
"""Of each weight: itself, its gradient, two moments of Adam, the best so far."""


class Device(NamedTuple):
    """Where a plan is carried out."""

    name: str
    """In words, e.g. `NVIDIA H200`."""
    gpu: bool
    memory_bytes: float
    """Free."""

    @property
    def text(self) -> str:
        """In words, with its free memory."""
        return f"{self.name}, {self.memory_bytes / GB:.1f} GB free"


# ---------------------------------------------------------------------------- the sequence model


class SequenceSize(NamedTuple):
    """A size of the sequence model."""

    width: int
    blocks: int
    negatives: int
    """Of a batch; 0: all items."""

    @property
    def rate(self) -> float:
        """Of AdamW: lower for wider ones (assumed: by 1 / width, as muP has it)."""
        return 0.002 * 128 / self.width

    @property
    def text(self) -> str:
        """In words."""
        against = f"{self.negatives:,} negatives" if self.negatives else "all items as negatives"
        return f"width {self.width}, {self.blocks} block{'s' * (self.blocks > 1)}, {against}"


class SequenceData(NamedTuple):
    """What the sequence model is fitted on."""

    items: int
    """N"""
    positions: int
    """P"""
    batch: int
    """Positions of a step."""
    text: int
    """t; 0 without vectors."""
    length: int
    """Events that are read."""

    @property
    def steps(self) -> float:
        """Of an epoch."""
        return self.positions / self.batch


SMALLEST: Final = SequenceSize(128, 1, 1024)
"""As on a processor."""
SIZES: Final = (
    SequenceSize(512, 2, 0),
    SequenceSize(256, 2, 0),
    SequenceSize(256, 2, 8192),
    SequenceSize(128, 1, 0),
    SequenceSize(128, 1, 8192),
)
"""Larger ones, the largest first (assumed: every step about doubles the work)."""
WANTED_EPOCHS: Final = 20
"""For which a larger size must have time (measured on 339,172 purchases: the processor's own fits find their
best weights in 8 to 20)."""
MOST_EPOCHS: Final = 40
"""Early stopping ends most fits before (assumed)."""
LEAST_EPOCHS: Final = 2
MOST_MEMBERS: Final = 3
"""A fourth adds little to the mean of three, and each costs as much to serve (assumed)."""
FITS: Final = 6
"""Of the chosen size in a night: two while it is chosen, the ranker's windows, the test, the release, and one
to spare."""


@dataclass(frozen=True)
class SequencePlan:
    """What the sequence model is given."""

    size: SequenceSize
    epochs: int
    members: int
    note: str
    """In one sentence."""
    timed: dict[str, float] = field(default_factory=dict)
    """Size → seconds of a step."""

    def settings(self) -> list[dict[str, float]]:
        """Params to try, each over what was chosen before."""
        if not self.timed:
            return []
        larger = {
            "width": float(self.size.width),
            "blocks": float(self.size.blocks),
            "negatives": float(self.size.negatives),
            "learning_rate": self.size.rate,
            "epochs": float(self.epochs),
        }
        return [larger, *([{"members": float(self.members)}] if self.members > 1 else [])]


def sequence_memory(size: SequenceSize, data: SequenceData) -> float:
    """Bytes of a step, generously."""
    against = size.negatives or data.items
    table = data.items if size.negatives == 0 else min(data.items, 2 * data.batch + against)
    weights = data.items * (size.width + 1) + data.text * size.width
    weights += 8 * size.blocks * size.width**2
    states = 24 * size.blocks * data.batch * (size.width + data.length)
    logits = 4 * data.batch * (against + 1)
    looks = data.items * (size.width + 3 * 128)
    step = data.items * data.text + 4 * table * (size.width + data.text) + states + logits + looks
    return FLOAT * (COPIES * weights + step)


def plan_sequence(
    device: Device,
    data: SequenceData,
    seconds: float,
    seconds_of: Callable[[SequenceSize], float | None],
    *,
    most_seconds: float,
) -> SequencePlan:
    """The largest size that has time for `WANTED_EPOCHS` at every fit of a night, then more epochs, then
    members.

    Args:
        device: where it is fitted.
        data: what it is fitted on.
        seconds: of all its fits in a night.
        seconds_of: measures a step of a size; None where it runs out of memory. Asked on a GPU only.
        most_seconds: that one member's fit may take.
    """
    if not device.gpu:
        note = f"{device.name}: {SMALLEST.text}, epochs counted from the events; nothing is timed"
        return SequencePlan(SMALLEST, 0, 1, note)
    one_fit, timed = seconds / FITS, {}
    for size in (*SIZES, SMALLEST):
        if sequence_memory(size, data) > MEMORY_SHARE * device.memory_bytes:
            continue
        step = seconds_of(size)
        if step is None:
            continue
        timed[size.text] = step
        epochs = min(one_fit, most_seconds) / max(step * data.steps, 1e-9)
        if epochs >= WANTED_EPOCHS or (size == SMALLEST and epochs >= LEAST_EPOCHS):
            return _spent(device, size, data, step, int(min(epochs, MOST_EPOCHS)), one_fit, timed)
    note = (
        f"{device.text}: no size of the sequence model has {LEAST_EPOCHS} epochs in {one_fit:.0f} s"
    )
    return SequencePlan(SMALLEST, 0, 1, note)


def _spent(
    device: Device,
    size: SequenceSize,
    data: SequenceData,
    step: float,
    epochs: int,
    one_fit: float,
    timed: dict[str, float],
) -> SequencePlan:
    member = max(epochs * data.steps * step, 1e-9)
    members = int(min(MOST_MEMBERS, max(1.0, one_fit / member)))
    note = (
        f"{device.text}: {size.text}, {epochs} epochs at most, {members} "
        f"member{'s' * (members > 1)}; a step takes {1e3 * step:.1f} ms, so a fit at most "
        f"{members * member:.0f} of {one_fit:.0f} s"
    )
    return SequencePlan(size, epochs, members, note, timed)


# ---------------------------------------------------------------------------- the encoder


class EncoderData(NamedTuple):
    """What an encoder is fitted on."""

    lengths: Sequence[int]
    """Tokens of each text, or of a sample, at most the model's own limit."""
    texts: int
    """Of the catalogue."""
    layers: int
    hidden: int

    def tokens(self, limit: int) -> float:
        """Of the whole catalogue, cut to a limit."""
        if not len(self.lengths):
            return 0.0
        cut = sum(min(int(length), limit) for length in self.lengths)
        return cut / len(self.lengths) * self.texts

    def covering(self, share: float) -> int:
        """Tokens that so large a share of the texts does not exceed."""
        ordered = sorted(self.lengths)
        return int(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else 0


LIMITS: Final = (128, 192, 256, 384, 512)
"""Tokens of a text that are tried; beyond, descriptions repeat themselves (assumed)."""
COVERED: Final = 0.95
"""Share of the texts that are to be read whole."""
TUNING_SHARE: Final = 0.45
"""Of an encoder's seconds for steps of its layers, after preparation and the head's (assumed)."""
WANTED_PASSES: Final = 2.0
"""Over the catalogue, for more layers or longer texts to have time (assumed)."""
MOST_BATCH: Final = 8
"""Times the settings' own batch, negatives and tokens of a step."""
STEPS_PER_PASS: Final = 50
"""At least: a larger batch that leaves fewer steps learns less (assumed)."""
ACTIVATIONS: Final = 34
"""Numbers kept for each token, layer and hidden unit (Korthikanti et al., 2022, in their equation 2, bytes
for half precision; products of attention come on top)."""


@dataclass(frozen=True)
class EncoderPlan:
    """What an encoder is given beyond its settings."""

    settings: dict[str, Any]
    """Of `encoder`, those that are changed."""
    note: str
    """In one sentence."""
    tokens_per_second: float = 0.0
    """Trained; 0 where nothing was timed."""

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "settings": self.settings,
            "note": self.note,
            "tokens_per_second": round(self.tokens_per_second),
        }


def plan_encoder(
    device: Device,
    data: EncoderData,
    given: dict[str, Any],
    free: frozenset[str],
    seconds: float | None,
    trained_per_second: Callable[[], float],
) -> EncoderPlan:
    """Longer texts, then all layers, then a larger batch, as time and memory allow.

    Args:
        device: where it is fitted.
        data: its texts and the model.
        given: settings as they stand: `max_tokens`, `freeze`, `batch_size`, `negatives`, `step_tokens`.
        free: those that nobody has set, which alone may change.
        seconds: of the fit; None without a limit.
        trained_per_second: measures tokens that go forward and backward through all layers in a
            second. Asked on a GPU only.
    """
    if not device.gpu:
        return EncoderPlan({}, f"{device.name}: as set; nothing is timed")
    speed, settings = trained_per_second(), dict(given)
    affordable = float("inf") if seconds is None else TUNING_SHARE * seconds * speed
    memory = MEMORY_SHARE * device.memory_bytes
    if "max_tokens" in free:
        wanted = [n for n in LIMITS if given["max_tokens"] < n]
        enough = next((n for n in wanted if n >= data.covering(COVERED)), max(wanted, default=0))
        needed = data.covering(COVERED) > given["max_tokens"]
        for limit in sorted((n for n in wanted if n <= enough and needed), reverse=True):
            if WANTED_PASSES * data.tokens(limit) <= affordable:
                settings["max_tokens"] = limit
                break
    passes = affordable / max(1.0, data.tokens(settings["max_tokens"]))
    if "freeze" in free and given["freeze"] == "last_n" and passes >= WANTED_PASSES:
        settings["freeze"] = "full"
    step = given["step_tokens"]
    times = 1
    while (
        times < MOST_BATCH
        and 2 * times * step * STEPS_PER_PASS <= data.tokens(settings["max_tokens"])
        and 2 * times * step * data.layers * data.hidden * ACTIVATIONS <= memory
    ):
        times *= 2
    for name in {"batch_size", "negatives", "step_tokens"} & free:
        settings[name] = given[name] * times
    changed = {name: value for name, value in settings.items() if value != given[name]}
    said = ", ".join(f"{name} {value}" for name, value in changed.items()) or "as set"
    note = f"{device.text}: {said}; {speed:,.0f} tokens a second forward and backward"
    return EncoderPlan(changed, note, speed)
