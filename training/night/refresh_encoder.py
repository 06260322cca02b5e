"""When the encoder is due, and the one in use: tonight's new one, or the one at hand.

Between two refreshes the encoder's weights and the vectors stay; the user tower is fitted again over
them each night, and kept where it is better.
"""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import DAY
from recsys.storage.files import atomic_write, hash_json
from recsys.storage.stages import StageResult
from recsys.training.night import catalogue_vectors, encoder_age, tune_encoder
from recsys.training.night.hidden_items import untaught_share
from recsys.training.night.night_context import Night
from recsys.training.night.products import Encoded

if TYPE_CHECKING:
    from recsys.training.finetune.fit_inputs import FittedEncoder

MORE_EVENTS = 0.1
"""Growth of the events after which an encoder is due where timestamps carry order only, so that days
since the last refresh cannot be counted (assumed)."""


def refresh(night: Night) -> Encoded:
    """The encoder of this night, at hand or new, and the vectors of all items under it.

    A new one is due when there is none, its config changed, `refresh_days` of data have come since
    it was fitted, it has seen events that the ranker's rows must not know, or what it says has
    become clearly worse (see `recsys.training.night.encoder_age`). It starts from the champion's weights.
    """
    new = new_identity(night)
    kept, why = _kept_identity(night, new)
    night.reporter.say(f"encoder: {why}")
    if kept is None:
        return _renewed(night, new)
    encoded = _encoded(night, kept)
    if night.runner.dry_run:
        return encoded
    degraded = encoder_age.measure(night, encoded)
    if degraded is None or hash_json(kept) == hash_json(new):
        return encoded
    night.reporter.say(f"encoder: due after all, {degraded}")
    return _renewed(night, new)


def _renewed(night: Night, identity: dict[str, Any]) -> Encoded:
    """A new encoder, remembered as the one at hand."""
    encoded = _encoded(night, identity)
    if not night.runner.dry_run:
        atomic_write(night.workspace.encoder, json.dumps(identity))
        encoder_age.measure(night, encoded)
    return encoded


def _encoded(night: Night, identity: dict[str, Any]) -> Encoded:
    """The encoder of an identity, and all vectors under it."""
    until = int(identity["until"])
    stage = tune_encoder.tuned(night, identity)
    encode = partial(catalogue_vectors.encode, night, encoder=stage, until=until)
    return Encoded(stage, encode(night.data), until, encode)


def adopt(night: Night, fitted: "FittedEncoder") -> StageResult[Path]:
    """A fit apart from the workspace becomes the encoder at hand; the next night says when it is due.

    Raises:
        UsageError: it was fitted with other settings than the config's.
    """
    named = fitted.identity["encoder"]
    if hash_json(named) != hash_json(night.section("encoder")):
        raise UsageError(
            "the encoder was fitted with other settings than the config's",
            where=str(fitted.folder),
            found=_differing(named, night.section("encoder")),
            fix="restore these settings of `encoder:`, or write the inputs and fit again",
        )
    stage = tune_encoder.adopted(night, fitted)
    atomic_write(night.workspace.encoder, json.dumps(fitted.identity))
    return stage


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {one.get(key)!r} (now {other.get(key)!r})"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    )


def new_identity(night: Night) -> dict[str, Any]:
    """What decides an encoder fitted tonight."""
    inputs = night.data
    until = inputs.windows.encoder_until
    return {
        "until": until,
        "end": inputs.windows.end,
        "items": inputs.n_items,
        "events": int((inputs.interactions.time < until).sum()),
        "untaught": round(untaught_share(inputs), 4),
        "encoder": night.section("encoder"),
        "budget_minutes": night.config.budget_minutes,
        "seed": night.config.seed,
    }


def _kept_identity(night: Night, new: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The identity of the encoder at hand, None where a new one is due; and why."""
    windows = night.data.windows
    try:
        kept: dict[str, Any] = json.loads(night.workspace.encoder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, "due, there is none yet"
    if hash_json(kept["encoder"]) != hash_json(new["encoder"]):
        return None, "due, its config changed"
    if kept["until"] > windows.encoder_until:
        return None, "due, the one at hand has seen events of the ranker's windows"
    days = night.config.encoder.refresh_days
    age = (windows.end - kept["end"]) / DAY
    if not 0 <= age < max(days, 1e-9):
        return None, f"due, {age:.1f} days of data since the last refresh"
    if windows.scheme == "ordinal":
        more = new["events"] / max(kept.get("events", 0), 1) - 1
        if more >= MORE_EVENTS:
            return None, f"due, {more:.0%} more events (timestamps carry order only)"
        return kept, f"not due, {max(more, 0):.0%} of {MORE_EVENTS:.0%} more events"
    return kept, f"not due, {age:.1f} of {days:g} days of data"
