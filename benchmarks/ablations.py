"""What each source and each group of features is worth: the night without it, on the same test moments.

    python benchmarks/ablations.py CONFIG [--only NAME ...] [--out ablations.json]

CONFIG is the recsys.yaml of a workspace whose night is done; its encoder, recipe and fits are used
again. A source that is left out neither proposes candidates nor has features, so training groups and
test groups are collected anew; a group of features is left out of the ranker only. Every ranker is
fitted on all groups with the config's settings. Differences of nDCG@10 are paired, with 95 % intervals
by a bootstrap over users: whole minus the variant, so that above zero means that the part helps.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from recsys.data_schemas.config import load_config
from recsys.evaluation.lists import RankedLists
from recsys.evaluation.metrics import match, ndcg
from recsys.evaluation.uncertainty import bootstrap
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.groups import top_k
from recsys.training.night import (
    data_leaks,
    fit_ranker,
    fit_sources,
    ranking_data,
    read_data,
    refresh_encoder,
)
from recsys.training.night.night_context import Night
from recsys.training.night.products import TEXT, Recipe
from recsys.training.ranker import fit_ranker as fit_trees

K = 10


def without_source(recipe, name):
    """The recipe without a source; `text` stays loaded but proposes nothing."""
    weights = {n: w for n, w in recipe.weights.items() if n != name}
    if name == TEXT:
        weights[name] = 0.0
    params = {n: d for n, d in recipe.params.items() if n != name}
    return Recipe(params, weights, recipe.facts)


def quality(night, train, test, columns):
    """(nDCG@10 by moment, share of relevant items among the candidates)."""
    fitted = fit_trees(
        fit_ranker.only(train.groups(), train, columns),
        columns,
        night.config.ranker,
        seed=night.config.seed,
        workers=night.workers,
    )
    score = fit_ranker.scored(fitted, test)
    lists = RankedLists("variant", *top_k(score, test.table.items, test.table.offsets, K))
    found = float((test.table.grade > 0).sum() / max(1, len(test.moments.items)))
    return ndcg(match(test.moments, lists), K), found


def variants(recipe, features):
    """(name, recipe, features kept) of everything that can be left out."""
    columns, families = features.columns, features.families
    for name in sorted({*recipe.params, TEXT}):
        yield (
            f"source {name}",
            without_source(recipe, name),
            lambda c, n=name: n != TEXT or families.get(c) != "text",
        )
    for family in sorted({families[c] for c in columns}):
        yield f"features {family}", None, lambda c, f=family: families[c] != f


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = load_config(given.config)
    workspace, reporter = Workspace(config.workspace_path), Reporter(quiet=True)
    rows = []
    with workspace.lock():
        night = Night(config, workspace, StageRunner(workspace, reporter), reporter)
        night.drained = read_data.drain(night)
        night.tables = read_data.validate(night)
        night.tables = data_leaks.leave_out_leaks(night)
        night.data = read_data.split(night, read_data.load(night.tables.product, night.config))
        night.encoded = refresh_encoder.refresh(night)
        night.recipe = recipe = fit_sources.tune(night)

        def ranking(recipe):
            side = night.beside(recipe=recipe)
            return [
                ranking_data.build_ranking_data(side, role).product for role in ("ranker", "test")
            ]

        train, test = ranking(recipe)
        _, user = np.unique(test.moments.user, return_inverse=True)
        whole, found = quality(night, train, test, train.features.columns)
        print(
            f"{len(whole):,} lists of {len(np.unique(user)):,} users, {len(train.groups()):,} groups; "
            f"whole: nDCG@{K} {whole.mean():.4f}, candidates hold {found:.1%} of what is relevant"
        )
        for name, changed, kept in variants(recipe, train.features):
            if given.only and name not in given.only:
                continue
            began = time.perf_counter()
            mine = (train, test) if changed is None else ranking(changed)
            columns = [c for c in mine[0].features.columns if kept(c)]
            value, share = quality(night, *mine, columns)
            drawn = bootstrap(
                (whole - value)[:, None], user.astype(np.int32), resamples=2000, seed=0
            ).interval(0)
            rows.append([name, float(value.mean()), drawn.value, drawn.low, drawn.high, share])
            print(
                f"without {name:26s}{value.mean():8.4f}   {drawn.value:+.4f} "
                f"[{drawn.low:+.4f}, {drawn.high:+.4f}]   candidates hold {share:.1%}   "
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )
    if given.out:
        given.out.write_text(json.dumps({"whole": float(whole.mean()), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
