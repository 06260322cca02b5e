"""What asking a release found, before it may go live."""

from collections.abc import Mapping
from dataclasses import dataclass

from recsys.evaluation.report_context import Check, or_dash
from recsys.features.draws import Doubles
from recsys.features.parity import LIMIT, broken


@dataclass(frozen=True)
class ReleaseCheck:
    """What asking the release found."""

    latency_ms: float
    """Median of one recommendation; 0 where too few moments were asked."""
    overlap: float | None
    """Mean share of the evaluated top 10 that the release lists too."""
    evaluated: Doubles
    released: Doubles
    """Scores of the items that both lists hold, pairwise."""
    differences: Mapping[str, float]
    """Feature → largest relative difference of its two readings."""
    counted: float
    """Share of the known events that counters see at the moment at which lists are asked for."""
    moved: Mapping[str, float]
    """Feature → how far its values, as asked for next, lie from those that were tested: the largest
    gap of the two distribution functions (Kolmogorov and Smirnov's). Counts grow from one to the other,
    so this informs and refuses nothing."""
    lost: Mapping[str, float]
    """Feature → by how much the share of candidates rose for which it is unknown."""

    @property
    def most_lost(self) -> tuple[str, float]:
        """The feature that became unknown most often, and by how much."""
        return max(self.lost.items(), key=lambda pair: pair[1], default=("none", 0.0))

    @property
    def furthest(self) -> tuple[str, float]:
        """The feature that moved most, and how far."""
        return max(self.moved.items(), key=lambda pair: pair[1], default=("none", 0.0))

    @property
    def shift(self) -> float | None:
        """Mean change of a score, in standard deviations of the evaluated ones."""
        if len(self.evaluated) < 2:
            return None
        spread = max(float(self.evaluated.std()), 1e-12)
        return abs(float(self.released.mean() - self.evaluated.mean())) / spread

    @property
    def parity(self) -> list[Check]:
        """For the page: one row in all, and one for each feature that differs."""
        worst = max(self.differences.items(), key=lambda pair: pair[1], default=("none", 0.0))
        found = [
            Check(
                f"{len(self.differences)} features of the release, online against batch",
                worst[1] <= LIMIT,
                f"largest relative difference {worst[1]:.2g} ({worst[0]}), limit {LIMIT:g}",
            )
        ]
        return found + [
            Check(f"feature {name}", False, f"differs by {self.differences[name]:.2g}")
            for name in broken(self.differences)
        ]

    def facts(self) -> dict[str, object]:
        """For the report's release section."""
        return {
            "overlap of the released top 10 with the evaluated": or_dash(self.overlap, ".0%"),
            "shift of the mean score, standard deviations": or_dash(self.shift, ".2f"),
            "known events that counters see when lists are asked for": f"{self.counted:.1%}",
            "feature furthest from what was tested": "{} by {:.2f}".format(*self.furthest),
            "feature most often unknown since": "{} by {:.0%}".format(*self.most_lost),
            "median time of one recommendation, ms": f"{self.latency_ms:.1f}",
        }
