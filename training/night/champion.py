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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
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
from recsys.storage.stages import Stage, StageResult, folder
from recsys.training.compared_lists import LIST_LENGTH
from recsys.training.night import (
    fit_ranker,
    masked_items,
    ranking_data,
    test_lists,
)
from recsys.training.night.inputs import Inputs
from recsys.training.night.masked_items import Masked
from recsys.training.night.night_context import Night
from recsys.training.night.products import (
    FOLDER,
    FULL,
    ChampionResult,
    Encoded,
    Recipe,
    ReleasedLists,
)
from recsys.training.night.tune_encoder import CODE
from recsys.training.released_lists import lists_of_release
from recsys.training.source_files import VECTORS

RECIPE_SECTIONS = ("features", "sources", "ranker", "windows", "seed")
"""Config sections that belong to a recipe; the others (evaluation, gate, serving) are tonight's."""
SETTINGS = (*RECIPE_SECTIONS, "encoder", "events")
"""Config sections by which a person changes what is made of the same data."""
ASKED_AT_MOST = 1000
"""Moments at which a release is asked, at 5 ms each (measured on 9,000 items)."""
NOT_THE_RECIPES_FAULT = (DiskFull, RegistryError, DataRefused)
"""Errors of a refit that say nothing about the recipe: the night fails and is run again."""


def lists_of_champion(night: Night) -> ChampionResult | None:
    """The champion on tonight's test moments; None where there is none.

    Raises:
        RegistryError: the registry does not answer; who is champion is not known then.
    """
    registry = night.registry
    version = registry.champion()
    if version is None:
        return None
    try:
        bundle = open_bundle(registry.local_path(version))
    except RegistryError:
        raise
    except RecsysError as problem:
        return _without_files(night, version, problem)
    found = _comparable(night, bundle, version)
    kept, tonight = bundle.manifest.get("config") or {}, _plain(night.config)
    released, unasked = _released(night, bundle, version)
    return replace(
        found,
        same_recipe=settings_of(kept) == settings_of(tonight),
        same_labels=settings_of(kept, ("events",)) == settings_of(tonight, ("events",)),
        released=released,
        unasked=unasked,
    )


def _comparable(night: Night, bundle: Bundle, version: int) -> ChampionResult:
    """Its recipe fitted again, or a release that has not seen the test window."""
    try:
        lists, masked = _refitted(night, bundle, version)
        how = "its recipe fitted again as of the same cuts"
        return ChampionResult(version, lists, how, masked=masked)
    except NOT_THE_RECIPES_FAULT:
        raise
    except (RecsysError, ValidationError, KeyError) as problem:
        why = _one_line(problem)
    night.alarm(f"the recipe of the champion (version {version}) cannot be fitted again: {why}")
    return _by_an_old_bundle(night, version, why)


def recipe_of(night: Night) -> str:
    """Names tonight's recipe."""
    return recipe_key(night.config, night.recipe, night.encoded.stage.key)


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


def _released(night: Night, bundle: Bundle, version: int) -> tuple[ReleasedLists | None, str]:
    """The champion's release at moments after every `fit_until` of its parts, or why not."""
    moments = night.tested.product.moments
    seen = max([*bundle.fit_until.values(), int(bundle.manifest["data_window"][1]) - 1])
    rows = np.flatnonzero(moments.time > seen)
    users = len(np.unique(moments.user[rows]))
    if users < FEW_USERS:
        left = f"all but those of {users} users" if users else "all"
        return None, (
            f"the release of version {version} has seen {left} of tonight's moments, so it is not "
            "asked: its recorded lists decide"
        )
    asked = night.data.chances(moments.take(rows), "champion asked")
    rows = rows[least(asked, ASKED_AT_MOST)]
    try:
        loaded = _loaded(night, bundle, version)
    except RecsysError as problem:
        return None, f"the release of version {version} cannot be asked: {_one_line(problem)}"
    return ReleasedLists(rows, _asked(night, loaded, moments.take(rows), version)), ""


def _without_files(night: Night, version: int, problem: RecsysError) -> ChampionResult:
    """A champion whose bundle cannot be opened: lost, unless only this release cannot read it."""
    newer = isinstance(problem, BundleRefused) and "newer" in problem.what
    why = _one_line(problem)
    night.alarm(f"the champion (version {version}) cannot be opened: {why}")
    return ChampionResult(version, None, why, lost=not newer)


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300] or type(problem).__name__


def _refitted(
    night: Night, bundle: Bundle, version: int
) -> tuple[RankedLists, StageResult[Masked]]:
    """Lists of a bundle's recipe, fitted as of tonight's cuts, and those over masked cold items."""
    side = night.beside(config=_with_recipe(night, bundle))
    side.encoded = _encoder_of(side, bundle)
    side.recipe = Recipe.parse(bundle.facts["recipe"])
    side.learned = ranking_data.build_ranking_data(side, "ranker")
    side.tested = ranking_data.build_ranking_data(side, "test")
    side.rankers = fit_ranker.fit(side)
    tested = side.tested.product
    score = fit_ranker.score(side.rankers.product, FULL, tested)
    items, scores = test_lists.best_of(score, tested, test_lists.caps_of(side))
    masked = masked_items.make_masked_lists(side)
    return RankedLists(f"champion (version {version})", items, scores), masked


def _with_recipe(night: Night, bundle: Bundle) -> RecsysConfig:
    """Tonight's config with the settings of the champion's recipe."""
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
    return changed


def _encoder_of(night: Night, bundle: Bundle) -> Encoded:
    """Tonight's encoder where it is the champion's too, else the bundle's over tonight's items."""
    encoded, windows = night.encoded, night.data.windows
    bundled = bundle.path / FOLDER
    same = bundle.facts["stages"].get("encoder") == encoded.stage.key
    if same and _same_tower(bundled, encoded.folder):
        return encoded
    until = int(bundle.fit_until["encoder"])
    if until > windows.encoder_until:
        raise RecsysError(
            "the champion's encoder has seen events of tonight's windows",
            where="gate",
            found=until,
            expected=f"fitted before {windows.encoder_until}",
        )
    encode = partial(_vectors_by, night, bundle)
    return Encoded(encoded.stage, encode(night.data), until, encode, bundled)


def _vectors_by(night: Night, bundle: Bundle, inputs: Inputs) -> StageResult[Path]:
    """Vectors of all items by a bundle's encoder."""

    def make(out: Path) -> dict[str, Any]:
        cache = night.workspace.vectors
        vectors, counts = encode_items(bundle.path / FOLDER, inputs.texts, cache)
        np.save(out / VECTORS, vectors)
        return {"encoded": counts.encoded, "from_cache": counts.from_cache}

    return night.runner.run(
        Stage(
            "vectors",
            {"encoder": bundle.digest, "texts": inputs.texts_key},
            make,
            folder,
            code=CODE,
            personal=False,
        )
    )


def _same_tower(one: Path, other: Path) -> bool:
    """Whether two encoder folders hold the same user tower."""
    return (one / TOWER).read_bytes() == (other / TOWER).read_bytes()


def _by_an_old_bundle(night: Night, version: int, why: str) -> ChampionResult:
    """Lists of the latest champion's bundle that has not seen the test window, if one can be asked."""
    moments = night.tested.product.moments
    for number, bundle in _bundles_before(night.registry, night.data.windows.test[0]):
        try:
            loaded = _loaded(night, bundle, number)
        except RecsysError as problem:
            night.reporter.warn(f"version {number} cannot be asked: {_one_line(problem)}")
            continue
        lists = _asked(night, loaded, moments, number)
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


def _loaded(night: Night, bundle: Bundle, version: int) -> LoadedRelease:
    """A release over tonight's state."""
    from recsys.features.state import OnlineState

    return LoadedRelease(bundle, OnlineState.open(night.state.product), version=str(version))


def _asked(night: Night, loaded: LoadedRelease, moments: Truth, version: int) -> RankedLists:
    """What a release answers at some test moments."""
    while loaded.encode_new(LIST_LENGTH):
        pass
    return lists_of_release(
        loaded,
        night.data.interactions.user_ids[moments.user].tolist(),
        moments.time,
        LIST_LENGTH,
        name=f"champion (version {version} as released)",
        caps=night.config.serving.caps,
    )
