"""A bundle as a plain MLflow pyfunc: `mlflow.pyfunc.load_model("models:/NAME@champion")`.

`predict` takes a frame with `user_id`, and optionally `item_id`, `timestamp` and `history`. With items
it returns one score per row, in the rows' order; without, the best `k` items of each user. The bundle
holds no personal data: who comes without a history is ranked for as somebody new. The service and
`recsys recommend` rank with the workspace's state.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.storage.bundle import open_bundle

if TYPE_CHECKING:
    import pandas as pd

    from recsys.frame_ranking import FrameRanker

DEFAULT_K = 10


class BundleModel:
    """What MLflow calls."""

    def __init__(self, path: Path) -> None:
        self.path = open_bundle(path).path

    @cached_property
    def _ranker(self) -> "FrameRanker":
        from recsys.frame_ranking import FrameRanker

        return FrameRanker(self.path)

    def predict(
        self, frame: "pd.DataFrame", params: dict[str, Any] | None = None
    ) -> "pd.Series | pd.DataFrame":
        """Scores of the rows (higher is better within a user), or lists where no item is named.

        Args:
            frame: `user_id`; `item_id` to score; `timestamp` to ask as of; `history`, a list of events
                or its JSON text.
            params: `k`, items of a list; `filter_viewed`, whether what stands in the history is left
                out of it.

        Raises:
            UsageError: a column is missing, or a history cannot be read.
        """
        import pandas as pd

        if c.USER_ID not in frame.columns:
            raise UsageError(
                "a column is missing from the frame to rank",
                where=c.USER_ID,
                found=", ".join(map(str, frame.columns)),
                expected=f"{c.USER_ID}; {c.ITEM_ID}, {c.TIMESTAMP} and history where there are any",
            )
        asked = params or {}
        if c.ITEM_ID in frame.columns and frame[c.ITEM_ID].notna().any():
            return pd.Series(self._ranker.scores(frame), index=frame.index, name="score")
        k = int(asked.get("k", DEFAULT_K))
        if k < 1:
            raise UsageError("a list has at least one place", where="params.k", found=k)
        return self._ranker.lists(frame, k, bool(asked.get("filter_viewed", True)))


def _load_pyfunc(path: str) -> BundleModel:
    """Entry point that MLflow's loader calls with the logged folder."""
    return BundleModel(Path(path))
