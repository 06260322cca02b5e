"""A bundle as a plain MLflow pyfunc: `mlflow.pyfunc.load_model("models:/NAME@champion")`.

`predict` takes a frame with `user_id`, `item_id` and optionally `timestamp`, and returns one score
per row, in the rows' order. The bundle holds no personal data, so every user is ranked for as a new
one, as of now: it is for trying a bundle with plain tools. The service and `recsys recommend` rank
with the workspace's state.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.storage.bundle import open_bundle

if TYPE_CHECKING:
    import pandas as pd


class BundleModel:
    """What MLflow calls."""

    def __init__(self, path: Path) -> None:
        self.path = open_bundle(path).path

    def predict(self, frame: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.Series":
        """float scores, one per row; higher is better within a user.

        Raises:
            UsageError: a required column is missing.
        """
        del params  # part of MLflow's signature; there is nothing to set
        import pandas as pd

        for column in (c.USER_ID, c.ITEM_ID):
            if column not in frame.columns:
                raise UsageError(
                    "a column is missing from the frame to rank",
                    where=column,
                    found=", ".join(map(str, frame.columns)),
                    expected=f"{c.USER_ID}, {c.ITEM_ID} and optionally {c.TIMESTAMP}",
                )
        from recsys.recommender import rank_frame

        return pd.Series(rank_frame(self.path, frame), index=frame.index, name="score")


def _load_pyfunc(path: str) -> BundleModel:
    """Entry point that MLflow's loader calls with the logged folder."""
    return BundleModel(Path(path))
