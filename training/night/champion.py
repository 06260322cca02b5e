"""The champion's side of the comparison: its recipe, fitted again as of tonight's cuts.

The recipe (sources and dials, fusion, feature and ranker settings, encoder) is kept in the
champion's bundle. Where it equals tonight's, every stage is found unchanged and costs nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_schemas.errors import RecsysError
from recsys.bundle import Bundle, open_bundle
from recsys.encoder.encode import encode_items
from recsys.evaluation.lists import RankedLists
from recsys.files import hash_json
from recsys.registry import Registry
from training.groups import top_k
from training.night import evaluate, measure, ranker
from training.night.context import Night
from training.night.encoder import Encoded
from training.night.inputs import Inputs
from training.night.sources import Recipe

RECIPE_SECTIONS = ("features", "sources", "ranker", "windows", "seed")
"""Config sections that belong to a recipe; the others (evaluation, gate, serving) are tonight's."""


@dataclass(frozen=True)
class _KeptEncoder(Encoded):
    """An encoder out of a bundle."""

    bundle: Path = Path()

    @property
    def folder(self) -> Path:
        return self.bundle / "encoder"


def lists_of_champion(
    night: Night, inputs: Inputs, encoded: Encoded, registry: Registry
) -> tuple[int, RankedLists] | None:
    """(version, lists) of the champion on tonight's test moments; None where there is none.

    A champion that cannot be compared (its files are gone, its encoder has seen the window) is an
    alarm and refuses promotion by the gate, not a crash.
    """
    version = registry.champion()
    if version is None:
        return None
    bundle = open_bundle(registry.local_path(version))
    side = _with_recipe(night, bundle)
    kept = _encoder_of(side, inputs, encoded, bundle)
    recipe = Recipe.parse(bundle.facts["recipe"])
    groups, rows = measure.measure(side, inputs, kept, recipe, "ranker")
    _, tested = measure.measure(side, inputs, kept, recipe, "test")
    rankers = ranker.fit(side, rows, groups)
    assert tested is not None
    score = ranker.score(rankers.path, "full", tested)
    items, scores = top_k(score, tested.table.items, tested.table.offsets, evaluate.LIST_LENGTH)
    return version, RankedLists(f"champion (version {version})", items, scores)


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
    return replace(night, config=changed)


def _encoder_of(night: Night, inputs: Inputs, encoded: Encoded, bundle: Bundle) -> Encoded:
    """Tonight's encoder where it is the champion's too, else the bundle's over tonight's items."""
    if bundle.facts["stages"].get("encoder") == encoded.stage.key:
        return encoded
    until = int(bundle.fit_until["encoder"])
    if until > inputs.windows.encoder_until:
        raise RecsysError(
            "the champion's encoder has seen events of tonight's windows",
            where="gate",
            found=until,
            expected=f"fitted before {inputs.windows.encoder_until}",
        )
    folder = bundle.path / "encoder"

    def action(out: Path) -> dict[str, Any]:
        vectors, counts = encode_items(folder, inputs.texts, night.workspace.cache / "vectors")
        np.save(out / "vectors.npy", vectors)
        return {"encoded": counts.encoded, "from_cache": counts.from_cache}

    vectors = night.runner.run(
        "vectors",
        {"encoder": bundle.digest, "texts": hash_json(inputs.texts)},
        action,
        code=("recsys.encoder",),
    )
    return _KeptEncoder(encoded.stage, vectors, until, bundle.path)
