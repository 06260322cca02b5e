"""The release: sources refitted to the last day, the state snapshot, the bundle, the registration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data_schemas.log_record import LogMark
from recsys.features.protocols import RecallSource
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
from recsys.storage.stages import StageResult
from recsys.training.night.fit_sources import Fitted, Recipe, fit_as_of
from recsys.training.night.inputs import Inputs, user_table
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData
from recsys.training.night.refresh_encoder import Encoded

TEXT = "text"
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


def refit(night: Night, inputs: Inputs, encoded: Encoded, recipe: Recipe) -> Fitted:
    """Sources of the same recipe fitted on everything: what is released."""
    return fit_as_of(night, inputs, encoded, recipe, inputs.interactions, inputs.windows.end)


def snapshot(night: Night, inputs: Inputs, log: LogMark) -> StageResult:
    """The online state as of the drained log position: histories, counters, catalogue.

    It holds every event up to there, also for a night that trains on those before a date only: a
    service folds what comes after the position, so what is missing here would be missing there.
    It holds personal data, so it lies beside the bundle and never in it.
    """

    def action(out: Path) -> dict[str, Any]:
        config = night.config.features
        state = OnlineState.build(
            inputs.known,
            inputs.tables.catalogue,
            bucket_us=BUCKETS[config.bucket],
            windows_us=state_windows(night),
            log_position=log.position,
            log_mark=log,
            users=user_table(inputs.tables),
            meaning=inputs.meaning,
            impressions=inputs.tables.impressions,
        )
        state.save(out / "state")
        return {
            "log_position": log.position,
            "users": inputs.known.n_users,
            # From what, for those who compute again what was read from it.
            "tables": inputs.stage.key,
            "until": None,
        }

    return night.runner.run(
        "state",
        {
            "tables": inputs.stage.key,
            "position": log.position,
            "log": log.identity,
            "features": night.section("features"),
            "events": night.section("events"),
        },
        action,
        code=("recsys.features",),
    )


def state_windows(night: Night) -> list[int]:
    """Bounded windows of the counters, µs."""
    return sorted({window_us(w) for w in night.config.features.windows})


def bundle(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    ranking: RankingData,
    rankers: StageResult,
    released: Fitted,
    state: StageResult,
) -> StageResult:
    """Everything one release needs, in one folder.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        recipe: the sources, their params and fusion weights.
        ranking: ranking data, for the features.
        rankers: stage output with the ranker that is released.
        released: sources fitted on everything known.
        state: stage output of the online state's snapshot.
    """

    def action(out: Path) -> dict[str, Any]:
        sources: Mapping[str, RecallSource] = {
            name: source for name, source in released.load(encoded).items() if name != TEXT
        }
        catalogue = inputs.tables.catalogue
        write_bundle(
            out / "bundle",
            encoder=encoded.folder,
            items={
                "ids": catalogue.item_ids.to_pylist(),
                "vectors": np.asarray(encoded.vectors()),
                "index": encoded.index,
                "catalogue": state.path / "state" / "catalogue",
            },
            sources=sources,
            ranker=Ranker.load(rankers.path / "full"),
            features_json=ranking.features.to_json(),
            facts={
                "config": plain(night.config.model_dump(mode="json", exclude=NOT_IN_A_BUNDLE)),
                "data_window": [int(inputs.interactions.time.min()), inputs.windows.end],
                "windows": inputs.windows.facts(),
                "recipe": recipe.as_json(),
                "depth": night.config.sources.depth,
                "candidates": night.config.sources.candidates,
                "template": night.config.encoder.template,
                "ranker": rankers.facts["ranker"],
                "stages": night.runner.used,
                "state": {
                    "kinds": list(inputs.known.kinds),
                    "bucket_us": BUCKETS[night.config.features.bucket],
                    "windows_us": state_windows(night),
                },
            },
        )
        return {}

    return night.runner.run(
        "bundle",
        {
            "sources": released.key,
            "ranker": rankers.key,
            "encoder": encoded.vectors_stage.key,
            "state": state.key,
            "recipe": recipe.identity(),
        },
        action,
        code=("recsys.storage.bundle", "recsys.training.night.release"),
        personal=False,
    )


def publish_state(night: Night, state: StageResult) -> None:
    """Put the snapshot where services look for it, whole or not at all."""
    target = night.workspace.state / state.key
    if not target.exists():
        with atomic_folder(target, "the state snapshot") as aside:
            link_tree(state.path / "state", aside)
    atomic_write(night.workspace.current_state, json.dumps({"snapshot": state.key}))
