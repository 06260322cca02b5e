"""From a frame to ten items for everybody: `recsys.models.ALS` beside `implicit` on the bundled ratings.

    python benchmarks/frame_to_lists.py

Prints the lines of code that a user writes, and seconds of processor time: with everything to load (the
compiled kernels lie on the disk after a first run), and again with the tables read.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

import recsys
from recsys.ingestion import bundled

FOLDER = Path(bundled.__file__).parent / "movies"
LIKED = 4.0
OURS = """\
data = recsys.Dataset(events, items)
recs = recsys.models.ALS(factors=64).fit(data).recommend(k=10)
"""
AGAIN = "recs = recsys.models.ALS(factors=64).fit(data).recommend(k=10)\n"
IMPLICIT = """\
liked = events[events["value"] >= LIKED]
users, items = liked["user_id"].astype("category"), liked["item_id"].astype("category")
matrix = csr_matrix((np.ones(len(liked), np.float32), (users.cat.codes, items.cat.codes)))
als = AlternatingLeastSquares(factors=64, iterations=12, num_threads=1, random_state=7)
als.fit(matrix, show_progress=False)
ids, scores = als.recommend(np.arange(matrix.shape[0]), matrix, N=10, filter_already_liked_items=True)
recs = pd.DataFrame({"user_id": np.repeat(users.cat.categories, 10),
                     "item_id": items.cat.categories[ids.ravel()], "score": scores.ravel()})
recs["rank"] = recs.groupby("user_id").cumcount() + 1
"""


def timed(name: str, code: str, names: dict[str, object]) -> None:
    """Run a piece of code as a user would write it, and print what it took."""
    run: Callable[[], None] = lambda: exec(code, names)  # noqa: E731
    began = time.process_time()
    run()
    lists = pd.DataFrame(names["recs"])["user_id"].nunique()
    seconds = time.process_time() - began
    print(
        f"{name}: {len(code.splitlines())} lines, {seconds:.2f} s of processor time, {lists} lists"
    )


def main() -> None:
    """Both, in one process."""
    import numpy as np
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    names: dict[str, object] = {
        "recsys": recsys, "pd": pd, "np": np, "csr_matrix": csr_matrix, "LIKED": LIKED,
        "AlternatingLeastSquares": AlternatingLeastSquares,
        "events": pd.read_parquet(FOLDER / "events.parquet"),
        "items": pd.read_parquet(FOLDER / "items.parquet"),
    }  # fmt: skip
    timed("recsys", OURS, names)
    timed("recsys, tables read and kernels loaded", AGAIN, names)
    timed("implicit", IMPLICIT, names)


if __name__ == "__main__":
    main()
