"""The release: sources refitted to the last day, the state snapshot, the bundle, the registration."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from recsys.features import published_state
from recsys.features.state import OnlineState
from recsys.features.time_buckets import BUCKETS, window_us
from recsys.ranker import Ranker
from recsys.storage.bundle import write_bundle
from recsys.storage.files import (
    atomic_folder,
    atomic_write,
    link_tree,
    plain,
)
from recsys.storage.stages import Stage, StageResult
from recsys.training.night.fit_sources import fit_as_of
from recsys.training.night.inputs import BASIS, user_table
from recsys.training.night.night_context import Night
from recsys.training.night.products import FULL, TEXT, Fitted
from recsys.training.night.read_data import mark_of
from recsys.training.night.searched_items import searched_at

BUNDLE, STATE = "bundle", "state"
"""Folders in the outputs of these stages."""
NOT_IN_A_BUNDLE = {
    "workspace",
    "data",
    "serving",
    "tracking",
    "notify",
    "privacy",
    "prices",
    "hooks",
}
"""Config sections that say where things are, with the passwords and secret addresses in them."""


def refit(night: Night) -> Fitted:
    """Sources of the same recipe fitted on everything: what is released."""
    return fit_as_of(night, night.data.interactions, night.data.windows.end)


def snapshot(night: Night) -> StageResult[Path]:
    """The online state as of the drained log position: histories, counters, catalogue.

    It holds every event up to there, also for a night that trains on those before a date only: a
    service folds what comes after the position, so what is missing here would be missing there.
    It holds personal data, so it lies beside the bundle and never in it.
    """
    data, log = night.data, mark_of(night.drained)

    def make(out: Path) -> dict[str, Any]:
        OnlineState.build(
            data.known,
            data.tables.catalogue,
            bucket_us=BUCKETS[night.config.features.bucket],
            windows_us=state_windows(night),
            log_position=log.position,
            log_mark=log,
            users=user_table(data.tables),
            meaning=data.meaning,
            impressions=data.tables.impressions,
        ).save(out / STATE)
        return {
            "log_position": log.position,
            "users": data.known.n_users,
            # From what, for those who compute again what was read from it.
            "tables": data.stage.key,
            "until": None,
        }

    return night.runner.run(
        Stage(
            "state",
            {
                "tables": data.stage.key,
                "position": log.position,
                "log": log.identity,
                "features": night.section("features"),
                "events": night.section("events"),
            },
            make,
            lambda stage: stage.folder / STATE,
            code=("recsys.features",),
        )
    )


def state_windows(night: Night) -> list[int]:
    """Bounded windows of the counters, µs."""
    return sorted({window_us(w) for w in night.config.features.windows})


def bundle(night: Night) -> StageResult[Path]:
    """Everything one release needs, in one folder."""
    return night.runner.run(
        Stage(
            "bundle",
            {
                "sources": night.released.key,
                "ranker": night.served.key,
                "encoder": night.encoded.vectors_stage.key,
                "state": night.state.key,
                "recipe": night.recipe.identity(),
                **({} if (days := night.config.sources.recall_days) is None else {"days": days}),
            },
            lambda out: _pack(night, out / BUNDLE),
            lambda stage: stage.folder / BUNDLE,
            code=(
                *BASIS,
                "recsys.ranker",
                "recsys.storage.bundle",
                "recsys.training.night.searched_items",
            ),
            personal=False,
        )
    )


def _pack(night: Night, out: Path) -> None:
    encoded, catalogue = night.encoded, night.data.tables.catalogue
    sources = night.released.load(encoded)
    sources.pop(TEXT)
    write_bundle(
        out,
        encoder=encoded.folder,
        items={
            "ids": catalogue.item_ids.to_pylist(),
            "vectors": np.asarray(encoded.vectors()),
            "index": encoded.index,
            "searched": searched_at(night.data, int(night.data.interactions.time.max()) + 1),
            "catalogue": night.state.product / "catalogue",
        },
        sources=sources,
        ranker=Ranker.load(night.served.product / FULL),
        features_json=night.tested.product.features.to_json(),
        facts=_facts(night),
    )


def _facts(night: Night) -> dict[str, Any]:
    """What a bundle says of itself."""
    config, data = night.config, night.data
    return {
        "config": plain(config.model_dump(mode="json", exclude=NOT_IN_A_BUNDLE)),
        "data_window": [int(data.interactions.time.min()), data.windows.end],
        "windows": data.windows.facts(),
        "recipe": night.recipe.as_json(),
        "depth": config.sources.depth,
        "candidates": config.sources.candidates,
        "template": config.encoder.template,
        "ranker": night.served.facts["ranker"],
        "stages": night.runner.used,
        "state": {
            "kinds": list(data.known.kinds),
            "bucket_us": BUCKETS[config.features.bucket],
            "windows_us": state_windows(night),
        },
    }


def publish_state(night: Night) -> None:
    """Put the snapshot where services look for it, whole or not at all."""
    state = night.state
    target = night.workspace.state / state.key
    if not target.exists():
        with atomic_folder(target, "the state snapshot") as aside:
            link_tree(state.product, aside)
    atomic_write(night.workspace.current_state, json.dumps({"snapshot": state.key}))
    if (made := published_state.publish_state(night.config, target)) is not None:
        night.reporter.say(f"state: published in {len(made.shards)} shards for workers elsewhere")
