"""From a frame to ten items for everybody: `recsys.models.ALS` beside `implicit`, RecTools and LensKit, on the
bundled ratings.

    python benchmarks/frame_to_lists.py                    # ours, and implicit
    python benchmarks/frame_to_lists.py rectools lenskit   # in an environment that has them

Prints the lines of code that a user writes, and seconds of processor time, the libraries' own imports with
them: the first time with everything to load (our compiled kernels lie on the disk after a first run), and again.
Each piece of code stands here as its library's documentation writes it.
"""

import argparse
import time
from importlib import resources
from importlib.metadata import version
from typing import NamedTuple

import pandas as pd

OURS = """\
import recsys
data = recsys.Dataset(events, items)
recs = recsys.models.ALS(factors=64).fit(data).recommend(k=10)
"""
AGAIN = "recs = recsys.models.ALS(factors=64).fit(data).recommend(k=10)\n"
IMPLICIT = """\
import numpy as np
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
liked = events[events["value"] >= 4]
users, items = liked["user_id"].astype("category"), liked["item_id"].astype("category")
matrix = csr_matrix((np.ones(len(liked), np.float32), (users.cat.codes, items.cat.codes)))
als = AlternatingLeastSquares(factors=64, iterations=12, num_threads=1, random_state=7)
als.fit(matrix, show_progress=False)
ids, scores = als.recommend(np.arange(matrix.shape[0]), matrix, N=10, filter_already_liked_items=True)
recs = pd.DataFrame({"user_id": np.repeat(users.cat.categories, 10),
                     "item_id": items.cat.categories[ids.ravel()], "score": scores.ravel()})
recs["rank"] = recs.groupby("user_id").cumcount() + 1
"""
RECTOOLS = """\
from implicit.als import AlternatingLeastSquares
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import ImplicitALSWrapperModel
liked = events[events["value"] >= 4].rename(columns={"timestamp": Columns.Datetime})
dataset = Dataset.construct(liked[[Columns.User, Columns.Item, Columns.Datetime]].assign(weight=1.0))
als = AlternatingLeastSquares(factors=64, iterations=12, num_threads=1, random_state=7)
model = ImplicitALSWrapperModel(als).fit(dataset)
recs = model.recommend(users=liked["user_id"].unique(), dataset=dataset, k=10, filter_viewed=True)
"""
LENSKIT = """\
from lenskit.als import ImplicitMFScorer
from lenskit.batch import recommend
from lenskit.data import from_interactions_df
from lenskit.pipeline import topn_pipeline
liked = events[events["value"] >= 4].drop_duplicates(["user_id", "item_id"])
data = from_interactions_df(liked[["user_id", "item_id"]])
pipeline = topn_pipeline(ImplicitMFScorer(embedding_size=64, epochs=12), n=10)
pipeline.train(data)
recs = recommend(pipeline, data.users.ids(), 10, n_jobs=1).to_df()
"""


class Library(NamedTuple):
    """A library's way to the lists."""

    package: str
    first: str
    again: str


PEERS = {
    "recsys": Library("recsys-nightly", OURS, AGAIN),
    "implicit": Library("implicit", IMPLICIT, IMPLICIT),
    "rectools": Library("rectools", RECTOOLS, RECTOOLS),
    "lenskit": Library("lenskit", LENSKIT, LENSKIT),
}


def timed(name: str, code: str, names: dict[str, object]) -> str:
    """Run a piece of code as a user would write it; what it took, in words."""
    began = time.process_time()
    exec(code, names)
    seconds = time.process_time() - began
    lists = pd.DataFrame(names["recs"])["user_id"].nunique()
    lines = len([line for line in code.splitlines() if not line.startswith(("import ", "from "))])
    return f"{name}: {lines} lines beside imports, {seconds:.2f} s, {lists} lists"


def main() -> None:
    """Each, twice, in one process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="|".join(PEERS), default=["recsys", "implicit"])
    peers = parser.parse_args().peers
    if unknown := set(peers) - set(PEERS):
        parser.error(f"no such library: {', '.join(sorted(unknown))}")
    folder = resources.files("recsys.ingestion.bundled") / "movies"
    names: dict[str, object] = {
        "pd": pd,
        "events": pd.read_parquet(str(folder / "events.parquet")),
        "items": pd.read_parquet(str(folder / "items.parquet")),
    }
    for name in peers:
        peer = PEERS[name]
        own = dict(names)
        print(timed(f"{name} {version(peer.package)}", peer.first, own))
        print(timed(f"{name}, again", peer.again, own))


if __name__ == "__main__":
    main()
