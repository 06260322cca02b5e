"""The champion's side of the comparison: its recipe, fitted again as of tonight's cuts.

The recipe (sources and params, fusion, feature and ranker settings, encoder) is kept in the
champion's bundle. Where it equals tonight's, every stage is found unchanged and costs nothing.
Where it cannot be fitted again (its encoder has seen tonight's windows, a feature of its own is no
longer installed, its settings are no longer known), the latest champion's bundle that was fitted
on events before the test window is asked at the test moments instead.

That fit says which recipe is better; it cannot say that tonight's data are sound, for what spoils
them spoils it alike. So the champion's release is asked too, at the moments that no part of it has
seen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import DataRefused, RecsysError
from recsys.encoder.encode import encode_items
from recsys.encoder.tower import TOWER
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.uncertainty import FEW_USERS
from recsys.features.draws import least
from recsys.recommender import LoadedRelease
from recsys.retrieval.source_kinds import declare
from recsys.storage.bundle import Bundle, BundleRefused, open_bundle
from recsys.storage.files import DiskFull, hash_json
from recsys.storage.registry import Registry, RegistryError
from recsys.storage.stages import StageResult
from recsys.training.compared_lists import LIST_LENGTH
from recsys.training.night import (
    fit_ranker,
    masked_items,
    ranking_data,
    test_lists,
)
from recsys.training.night.fit_sources import Recipe
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData
from recsys.training.night.refresh_encoder import Encoded
from recsys.training.released_lists import lists_of_release

RECIPE_SECTIONS = ("features", "sources", "ranker", "windows", "seed")
"""Config sections that belong to a recipe; the others (evaluation, gate, serving) are tonight's."""
SETTINGS = (*RECIPE_SECTIONS, "encoder", "events")
"""Config sections by which a person changes what is made of the same data."""
ASKED_AT_MOST = 1000
"""Moments at which a release is asked, at 5 ms each (measured on 9,000 items)."""
NOT_THE_RECIPES_FAULT = (DiskFull, RegistryError, DataRefused)
"""Errors of a refit that say nothing about the recipe: the night fails and is run again."""


@dataclass(frozen=True)
class ReleasedLists:
    """What the champion's release answers at some of tonight's test moments."""

    rows: npt.NDArray[np.intp]
    """int[n]: which."""
    lists: RankedLists


@dataclass(frozen=True)
class ChampionResult:
    """The champion's side of the comparison."""

    version: int
    lists: RankedLists | None
    """Its lists on tonight's test moments; None where it cannot be compared."""
    how: str
    """How it was made comparable, or why it cannot be compared."""
    lost: bool = False
    """Whether its files are gone, so that nothing can serve it."""
    same_recipe: bool = False
    """Whether its settings are tonight's."""
    same_labels: bool = False
    """Whether events meant the same to it: labels recorded by its night can be used."""
    released: ReleasedLists | None = None
    """Its release at moments after all that any part of it has seen."""
    unasked: str = ""
    """Why the release was not asked."""
    masked: StageResult | None = None
    """The lists of its recipe over masked cold items."""


@dataclass(frozen=True)
class _KeptEncoder(Encoded):
    """An encoder out of a bundle, whose vectors are its own stage."""

    bundle: Bundle | None = None

    @property
    def folder(self) -> Path:
        assert self.bundle is not None
        return self.bundle.path / "encoder"

    def over(self, night: Night, inputs: Inputs) -> Encoded:
        assert self.bundle is not None
        return replace(self, vectors_stage=_vectors_by(night, self.bundle, inputs))


def lists_of_champion(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    registry: Registry,
    tested: RankingData,
    state: StageResult,
) -> ChampionResult | None:
    """The champion on tonight's test moments; None where there is none.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        registry: of the workspace.
        tested: test moments with candidates and features.
        state: stage output of the online state's snapshot.

    Raises:
        RegistryError: the registry does not answer; who is champion is not known then.
    """
    version = registry.champion()
    if version is None:
        return None
    try:
        bundle = open_bundle(registry.local_path(version))
    except RegistryError:
        raise
    except RecsysError as problem:
        return _without_files(night, version, problem)
    found = _comparable(night, inputs, encoded, registry, bundle, tested, state, version)
    kept = bundle.manifest.get("config") or {}
    released, unasked = _released(night, inputs, bundle, tested.moments, state, version)
    return replace(
        found,
        same_recipe=settings_of(kept) == settings_of(_plain(night.config)),
        same_labels=settings_of(kept, ("events",))
        == settings_of(_plain(night.config), ("events",)),
        released=released,
        unasked=unasked,
    )


def _comparable(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    registry: Registry,
    bundle: Bundle,
    tested: RankingData,
    state: StageResult,
    version: int,
) -> ChampionResult:
    """Its recipe fitted again, or a release that has not seen the test window."""
    try:
        lists, masked = _refitted(night, inputs, encoded, bundle, version)
        how = "its recipe fitted again as of the same cuts"
        return ChampionResult(version, lists, how, masked=masked)
    except NOT_THE_RECIPES_FAULT:
        raise
    except (RecsysError, ValidationError, KeyError) as problem:
        why = _one_line(problem)
    night.alarm(f"the recipe of the champion (version {version}) cannot be fitted again: {why}")
    return _by_an_old_bundle(night, inputs, registry, tested, state, version, why)


def recipe_key(config: RecsysConfig, recipe: Recipe, encoder_key: str) -> str:
    """Names a recipe: settings, what was tuned, the encoder's weights; not the data."""
    return hash_json([settings_of(_plain(config)), recipe.identity(), encoder_key])


def settings_of(
    config: Mapping[str, Any], sections: tuple[str, ...] = SETTINGS
) -> dict[str, Any] | None:
    """A config's settings with every default filled in, so that one written before a setting came
    to be equals one that does not use it; None where it cannot be read."""
    try:
        given = {name: config[name] for name in sections}
        whole = RecsysConfig.model_validate({"data": {"items": "", "events": ""}, **given})
    except (ValidationError, KeyError):
        return None
    return whole.model_dump(mode="json", include=set(sections))


def _plain(config: RecsysConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _released(
    night: Night,
    inputs: Inputs,
    bundle: Bundle,
    moments: Truth,
    state: StageResult,
    version: int,
) -> tuple[ReleasedLists | None, str]:
    """The champion's release at moments after every `fit_until` of its parts, or why not."""
    seen = max([*bundle.fit_until.values(), int(bundle.manifest["data_window"][1]) - 1])
    rows = np.flatnonzero(moments.time > seen)
    users = len(np.unique(moments.user[rows]))
    if users < FEW_USERS:
        left = f"all but those of {users} users" if users else "all"
        return None, (
            f"the release of version {version} has seen {left} of tonight's moments, so it is not "
            "asked: its recorded lists decide"
        )
    asked = inputs.chances(moments.take(rows), "champion asked")
    rows = rows[least(asked, ASKED_AT_MOST)]
    try:
        loaded = LoadedRelease(bundle, _state_of(state), version=str(version))
    except RecsysError as problem:
        return None, f"the release of version {version} cannot be asked: {_one_line(problem)}"
    return ReleasedLists(rows, _asked(loaded, night, inputs, moments.take(rows), version)), ""


def _without_files(night: Night, version: int, problem: RecsysError) -> ChampionResult:
    """A champion whose bundle cannot be opened: lost, unless only this release cannot read it."""
    newer = isinstance(problem, BundleRefused) and "newer" in problem.what
    why = _one_line(problem)
    night.alarm(f"the champion (version {version}) cannot be opened: {why}")
    return ChampionResult(version, None, why, lost=not newer)


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300] or type(problem).__name__


def _refitted(
    night: Night, inputs: Inputs, encoded: Encoded, bundle: Bundle, version: int
) -> tuple[RankedLists, StageResult]:
    """Lists of a bundle's recipe, fitted as of tonight's cuts, and those over masked cold items."""
    side = _with_recipe(night, bundle)
    kept = _encoder_of(side, inputs, encoded, bundle)
    recipe = Recipe.parse(bundle.facts["recipe"])
    groups, rows = ranking_data.build_ranking_data(side, inputs, kept, recipe, "ranker")
    _, tested = ranking_data.build_ranking_data(side, inputs, kept, recipe, "test")
    rankers = fit_ranker.fit(side, inputs, rows, groups)
    assert tested is not None
    score = fit_ranker.score(rankers.path, "full", tested)
    items, scores = test_lists.best_of(score, tested, test_lists.caps_of(side, inputs))
    masked = masked_items.make_masked_lists(side, inputs, kept, recipe, rankers)
    return RankedLists(f"champion (version {version})", items, scores), masked


def _with_recipe(night: Night, bundle: Bundle) -> Night:
    """Tonight's run with the settings of the champion's recipe."""
    kept: dict[str, Any] = bundle.manifest["config"]
    config = night.config
    sections = {
        name: type(getattr(config, name)).model_validate(kept[name])
        if isinstance(kept[name], dict)
        else kept[name]
        for name in RECIPE_SECTIONS
    }
    same = {"windows": config.windows}
    changed = config.model_copy(update=sections | same)
    object.__setattr__(changed, "_folder", config._folder)
    declare(changed.sources.own)
    return replace(night, config=changed)


def _encoder_of(night: Night, inputs: Inputs, encoded: Encoded, bundle: Bundle) -> Encoded:
    """Tonight's encoder where it is the champion's too, else the bundle's over tonight's items."""
    same = bundle.facts["stages"].get("encoder") == encoded.stage.key
    if same and _same_tower(bundle.path / "encoder", encoded.folder):
        return encoded
    until = int(bundle.fit_until["encoder"])
    if until > inputs.windows.encoder_until:
        raise RecsysError(
            "the champion's encoder has seen events of tonight's windows",
            where="gate",
            found=until,
            expected=f"fitted before {inputs.windows.encoder_until}",
        )
    return _KeptEncoder(encoded.stage, _vectors_by(night, bundle, inputs), until, bundle)


def _vectors_by(night: Night, bundle: Bundle, inputs: Inputs) -> StageResult:
    """Vectors of all items by a bundle's encoder."""

    def action(out: Path) -> dict[str, Any]:
        cache = night.workspace.vectors
        vectors, counts = encode_items(bundle.path / "encoder", inputs.texts, cache)
        np.save(out / "vectors.npy", vectors)
        return {"encoded": counts.encoded, "from_cache": counts.from_cache}

    return night.runner.run(
        "vectors",
        {"encoder": bundle.digest, "texts": inputs.texts_key},
        action,
        code=("recsys.encoder",),
        personal=False,
    )


def _same_tower(one: Path, other: Path) -> bool:
    """Whether two encoder folders hold the same user tower."""
    return (one / TOWER).read_bytes() == (other / TOWER).read_bytes()


def _by_an_old_bundle(
    night: Night,
    inputs: Inputs,
    registry: Registry,
    tested: RankingData,
    state: StageResult,
    version: int,
    why: str,
) -> ChampionResult:
    """Lists of the latest champion's bundle that has not seen the test window, if one can be asked."""
    first = inputs.windows.test[0]
    for number, bundle in _bundles_before(registry, first):
        try:
            loaded = LoadedRelease(bundle, _state_of(state), version=str(number))
        except RecsysError as problem:
            night.reporter.warn(f"version {number} cannot be asked: {_one_line(problem)}")
            continue
        lists = _asked(loaded, night, inputs, tested.moments, number)
        return ChampionResult(
            version, lists, f"by the bundle of version {number}, fitted before the window"
        )
    return ChampionResult(
        version, None, f"{why}; and no champion's bundle was fitted before the test window"
    )


def _bundles_before(registry: Registry, moment: int) -> Iterator[tuple[int, Bundle]]:
    """Bundles of those who were champion whose data ends before a moment, latest first."""
    champions = {change.version for change in registry.history()}
    for entry in registry.list():
        if entry.version not in champions:
            continue
        try:
            bundle = open_bundle(registry.local_path(entry.version))
        except BundleRefused:
            continue
        if int(bundle.manifest["data_window"][1]) <= moment:
            yield entry.version, bundle


def _state_of(state: StageResult) -> Any:
    from recsys.features.state import OnlineState

    return OnlineState.open(state.path / "state")


def _asked(
    loaded: LoadedRelease, night: Night, inputs: Inputs, moments: Truth, version: int
) -> RankedLists:
    """What a release answers at some test moments."""
    while loaded.encode_new(LIST_LENGTH):
        pass
    return lists_of_release(
        loaded,
        inputs.interactions.user_ids[moments.user].tolist(),
        moments.time,
        LIST_LENGTH,
        name=f"champion (version {version} as released)",
        caps=night.config.serving.caps,
    )
