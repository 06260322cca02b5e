"""The conformance suite over models of RecTools and LensKit themselves, adapted as sources.

In an environment that has one of the libraries beside this package:

    python benchmarks/adapted_sources.py rectools
    python benchmarks/adapted_sources.py lenskit

Prints each check that passed and how long a fit in the suite's small world takes; ends with an error at the
first check that does not. A test does the same with stand-ins of both libraries.
"""

import argparse
import sys
import time
from importlib.metadata import version
from typing import Any

import recsys
from recsys.retrieval.fitted_source import FittableSource
from recsys.retrieval.source_checks import CHECKS, fitted_in, small_world


class RecToolsEase(recsys.models.RecToolsSource):
    """Linear item-to-item weights."""

    name = "rectools_ease"

    def model(self) -> Any:
        from rectools.models import EASEModel

        return EASEModel(regularization=20.0)


class RecToolsAls(recsys.models.RecToolsSource):
    """A factor model of `implicit` through RecTools."""

    name = "rectools_als"

    def model(self) -> Any:
        from implicit.als import AlternatingLeastSquares
        from rectools.models import ImplicitALSWrapperModel

        als = AlternatingLeastSquares(factors=8, random_state=self.seed, num_threads=1)
        return ImplicitALSWrapperModel(als)


class LensKitNeighbours(recsys.models.LensKitSource):
    """Item-item neighbours for implicit feedback."""

    name = "lenskit_knn"

    def model(self) -> Any:
        from lenskit.knn import ItemKNNScorer

        return ItemKNNScorer(max_nbrs=20, feedback="implicit")


class LensKitFactors(recsys.models.LensKitSource):
    """A factor model for implicit feedback."""

    name = "lenskit_mf"

    def model(self) -> Any:
        from lenskit.als import ImplicitMFScorer

        return ImplicitMFScorer(embedding_size=8, epochs=5)


KINDS: dict[str, list[type[FittableSource]]] = {
    "rectools": [RecToolsEase, RecToolsAls],
    "lenskit": [LensKitNeighbours, LensKitFactors],
}


def main() -> None:
    """Each check over each model of the named library."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=KINDS)
    library = parser.parse_args().library
    # Saved sources are opened by the address of their class, which must not be `__main__`.
    sys.modules["adapted_sources"] = sys.modules["__main__"]
    print(f"{library} {version(library)}")
    for kind in KINDS[library]:
        kind.__module__ = "adapted_sources"
        for name, check in CHECKS.items():
            check(kind)
            print(f"{kind.name}: {name.replace('_', ' ')}")
        began = time.process_time()
        fitted_in(small_world(), kind)
        print(f"{kind.name}: a fit takes {time.process_time() - began:.2f} s of processor time")


if __name__ == "__main__":
    main()
