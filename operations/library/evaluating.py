"""`recsys.evaluate`: models, or lists of any making, on what people did next; with intervals.

The measuring is that of `evaluation/`; here a frame of lists becomes numbers of the catalogue, and the
measured numbers a report that a notebook draws. Shapes: G users with something to find.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import EvaluationConfig
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.evaluation.asked_moments import AskedMoments, evaluate_moments
from recsys.evaluation.evaluation import Evaluation
from recsys.evaluation.lists import PastItems, RankedLists, Truth
from recsys.evaluation.popularity_at import PopularityAt
from recsys.evaluation.query_sets import of_users
from recsys.evaluation.segments import of_history
from recsys.evaluation.uncertainty import Interval, bootstrap
from recsys.features.interactions import Ints, Longs
from recsys.features.ragged import offsets_of
from recsys.operations.library.dataset import Dataset
from recsys.operations.library.lists_out import RANK, SCORE, id_text
from recsys.operations.library.measures import NDCG, Recall, sorted_out

if TYPE_CHECKING:
    import pandas as pd

DEFAULT: Final = (NDCG(10), Recall(10))
MOST_LOOKED_AT: Final = 300
"""Tested users, at equal distances, whose events are looked for among those that a model was fitted on."""
LEARNED: Final = 0.05
"""Share of them found there from which it is refused: a repeated row may lie on both sides of a split."""
LEAST_LENGTH: Final = 10
"""Places of a list that are asked for at the least."""


def evaluate(
    systems: Mapping[str, Any] | Any,
    test: Dataset,
    metrics: Sequence[Any] = DEFAULT,
    *,
    train: Dataset | None = None,
    resamples: int = 1000,
    seed: int = 7,
) -> "EvaluationReport":
    """Measure systems on the same people, with intervals and paired differences.

    Everybody with a positive interaction in the test part is asked once, as `recommend` asks; what
    they did then is the truth, without items that they had acted on before.

    Parameters
    ----------
    systems
        Name → a model (anything with `recommend(users, k)`; one that was not fitted is fitted on the
        train part), or a frame of lists with `user_id`, `item_id` and `rank` or `score`. The first is
        the one that the others are compared with.
    test
        What happened next; the test part of `Dataset.split`.
    metrics
        `NDCG(10)`, `"recall@20"`, or functions of your own; see `recsys.per_list`.
    train
        What was known before, where the test part is not from a split.
    resamples, seed
        Resamples of users for each interval, and the seed of their draws.

    Returns
    -------
    EvaluationReport
        Draws itself in a notebook.

    Raises
    ------
    UsageError
        A system gives no lists, cannot be fitted or learned its test, or a list is not one.
    DataRefused
        Nobody in the test part did anything positive.

    Examples
    --------
    >>> import recsys
    >>> train, test = data.split(days=7)
    >>> report = recsys.evaluate({"popular": recsys.models.Popular(), "items": recsys.models.ItemItem()},
    ...                          test, metrics=[recsys.NDCG(10)])
    >>> report.to_frame().columns.tolist()
    ['system', 'metric', 'value', 'low', 'high', 'users']
    """
    named = dict(systems) if isinstance(systems, Mapping) else {_name_of(systems): systems}
    if not named:
        raise UsageError("there is nothing to evaluate", where="evaluate", found="no system")
    names, ks, own = sorted_out(metrics)
    known = train if train is not None else test.history
    asked = _Queries.of(test, known)
    _refuse_learned(named, test)
    config = EvaluationConfig(k=tuple(sorted(ks) or [LEAST_LENGTH]), bootstrap=resamples)
    evaluation = _measured(named, asked, known, config, seed, own)
    return EvaluationReport(evaluation, tuple(names), asked.notes)


def _measured(
    named: Mapping[str, Any],
    asked: "_Queries",
    known: Dataset | None,
    config: EvaluationConfig,
    seed: int,
    own: Mapping[str, Any],
) -> Evaluation:
    """Every system's lists at the same moments, the first system against the others."""
    length = max(LEAST_LENGTH, *config.k)
    lists = [
        asked.lists(name, _answers(name, s, asked, known, length), length)
        for name, s in named.items()
    ]
    moments = asked.moments(known is not None)
    return evaluate_moments(moments, lists, main=lists[0].name, config=config, seed=seed, own=own)


def _name_of(system: Any) -> str:
    return str(getattr(system, "label", None) or type(system).__name__)


def _answers(
    name: str, system: Any, asked: "_Queries", known: Dataset | None, k: int
) -> "pd.DataFrame":
    """A system's lists, as it would give them."""
    if hasattr(system, "recommend"):
        model = system
        if unfitted(model):
            if known is None:
                raise UsageError(
                    "a model was not fitted, and there is nothing to fit it on",
                    where=f"evaluate: {name}",
                    fix="evaluate(…, test, train=train), or fit it first",
                )
            model = model.fit(known)
        frame: pd.DataFrame = model.recommend(asked.user_ids, k)
        return frame
    if hasattr(system, "columns"):
        given: pd.DataFrame = system.to_pandas() if hasattr(system, "to_pandas") else system
        return given
    raise UsageError(
        "this is neither a model nor a frame of lists",
        where=f"evaluate: {name}",
        found=type(system).__name__,
        expected=f"recommend(users, k), or columns {c.USER_ID}, {c.ITEM_ID} and {RANK} or {SCORE}",
    )


@dataclass(frozen=True)
class _Queries:
    """Who is asked, and what they did then; items are numbers of the test part's catalogue."""

    users: list[str]
    user_ids: Any
    truth: Truth
    past: PastItems
    popularity: Longs
    item_ids: Any
    n_items: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, test: Dataset, known: Dataset | None) -> "_Queries":
        from recsys.training.night.read_data import graded

        tables = test.tables
        events, _ = graded(tables.interactions, tables.meaning)
        positive = events.where(events.grade > 0)
        chosen = np.unique(positive.user)
        if not len(chosen):
            raise DataRefused(
                "nobody in the test part did anything positive",
                where="evaluate",
                found=repr(test),
                fix="see event_types= of Dataset for what counts",
            )
        users = [str(events.user_ids[u]) for u in chosen]
        past, popularity = _past(known, users, tables.catalogue)
        moments = np.full(len(users), int(events.time.min()), np.int64)
        truth, _, again = of_users(positive, chosen, past, moments)
        notes = []
        if again:
            notes.append(
                f"{again:,} interactions are on items that their users had acted on before; "
                "they are not asked for again."
            )
        return cls(
            users, test.ids.of_users(users), truth, past, popularity, tables.catalogue.item_ids,
            tables.catalogue.n_items, tuple(notes),
        )  # fmt: skip

    def moments(self, known: bool) -> AskedMoments:
        """What lists are measured by; `known`: whether the past of the users is."""
        return AskedMoments(
            self.truth,
            self.n_items,
            PopularityAt.same(self.popularity, self.truth.n_groups, self.n_items),
            past=self.past if known else None,
            segments=of_history(self.past.lengths) if known else {},
        )

    @cached_property
    def _item_place(self) -> dict[str, int]:
        return {item: place for place, item in enumerate(self.item_ids.to_pylist())}

    def lists(self, name: str, frame: "pd.DataFrame", length: int) -> RankedLists:
        """A frame of lists as numbers; an item that the catalogue lacks is a miss.

        Raises:
            UsageError: a column is missing.
        """
        order = RANK if RANK in frame.columns else SCORE
        missing = [n for n in (c.USER_ID, c.ITEM_ID, order) if n not in frame.columns]
        if missing:
            raise UsageError(
                "a frame of lists lacks a column",
                where=f"evaluate: {name}",
                found=", ".join(map(str, frame.columns)),
                expected=f"{c.USER_ID}, {c.ITEM_ID} and {RANK} or {SCORE}",
            )
        places = {user: place for place, user in enumerate(self.users)}
        strangers: dict[str, int] = {}
        found: list[list[tuple[float, int, float]]] = [[] for _ in self.users]
        scores = frame[SCORE] if SCORE in frame.columns else -frame[order]
        where, met = f"evaluate: {name}", set()
        for user, item, by, score in zip(
            (id_text(u, f"{where}, {c.USER_ID}") for u in frame[c.USER_ID]),
            (id_text(i, f"{where}, {c.ITEM_ID}") for i in frame[c.ITEM_ID]),
            frame[order], scores, strict=True,
        ):  # fmt: skip
            place = places.get(user)
            if place is None:
                continue
            code = self._item_place.get(item)
            if code is None:
                code = strangers.setdefault(item, self.n_items + len(strangers))
            if (place, code) in met:
                raise _twice(where, user, item)
            met.add((place, code))
            found[place].append((float(by) if order == RANK else -float(by), code, float(score)))
        if len(frame) and not met:
            raise _of_nobody(where, frame[c.USER_ID], self.users)
        ranked = [sorted(rows, key=lambda row: row[0]) for rows in found]
        return RankedLists.of(
            name, [([code for _, code, _ in r], [s for _, _, s in r]) for r in ranked], length
        )


def _twice(where: str, user: str, item: str) -> UsageError:
    return UsageError(
        "a list names an item twice",
        where=where,
        found=f"item {item!r} in two rows of user {user!r}",
        expected="each item once in a user's list",
        fix=f"frame.drop_duplicates([{c.USER_ID!r}, {c.ITEM_ID!r}])",
    )


def _of_nobody(where: str, given: Any, users: Sequence[str]) -> UsageError:
    return UsageError(
        "the lists are of nobody who is tested",
        where=where,
        found=f"users such as {given.iloc[0]!r}",
        expected=f"ids such as {users[0]!r}",
        fix="give lists with the user ids of the test part",
    )


def _refuse_learned(named: Mapping[str, Any], test: Dataset) -> None:
    """Refuse models that have learned what they are tested on.

    Raises:
        UsageError: what people are tested on is in the histories that a model was fitted on.
    """
    for name, system in named.items():
        if hasattr(system, "learned_of") and not unfitted(system):
            _refuse_one(name, system, test)


def _refuse_one(name: str, system: Any, test: Dataset) -> None:
    events = test.tables.interactions
    item_ids = test.tables.catalogue.item_ids
    tested = learned = 0
    users = np.unique(events.user)
    looked = np.zeros(events.n_users, bool)
    looked[users[:: -(-len(users) // MOST_LOOKED_AT)]] = True
    theirs = np.flatnonzero(looked[events.user])
    for user in np.flatnonzero(looked).tolist():
        rows = theirs[events.user[theirs] == user]
        known = system.learned_of(str(events.user_ids[user]))
        tested += len(rows)
        learned += sum(
            (item_ids[int(item)].as_py(), int(time)) in known
            for item, time in zip(events.item[rows], events.time[rows], strict=True)
        )
    if learned > LEARNED * tested:
        raise UsageError(
            "the model has learned what it is tested on",
            where=f"evaluate: {name}",
            found=f"{learned:,} of {tested:,} tested interactions are among those it was fitted on",
            expected="a model fitted on the train part",
            fix="train, test = data.split(days=14); evaluate(model.fit(train), test)",
        )


def unfitted(model: Any) -> bool:
    """Whether a model of this package still waits for its fit."""
    return getattr(model, "_fitted", True) is None or getattr(model, "_asked", True) is None


def _past(known: Dataset | None, users: list[str], catalogue: Any) -> tuple[PastItems, Longs]:
    """What the users had acted on, and how many people each item had, in the catalogue's numbers."""
    if known is None:
        return PastItems(np.zeros(len(users) + 1, np.int64), np.empty(0, np.int32)), np.zeros(
            catalogue.n_items, np.int64
        )
    before = known.tables
    number = catalogue.indices_of(before.catalogue.item_ids.cast(pa.large_string()))
    item = number[before.interactions.item]
    pairs = np.unique(np.stack([before.interactions.user, item], 1), axis=0)
    popularity = np.bincount(pairs[pairs[:, 1] >= 0, 1], minlength=catalogue.n_items)
    place = {str(user): code for code, user in enumerate(before.interactions.user_ids)}
    starts = np.searchsorted(pairs[:, 0], np.arange(len(place) + 1))
    parts = []
    for user in users:
        code = place.get(user)
        mine = pairs[starts[code] : starts[code + 1], 1] if code is not None else np.empty(0, int)
        parts.append(mine[mine >= 0])
    items: Ints = np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)
    return PastItems(offsets_of(list(map(len, parts))), items), popularity.astype(np.int64)


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured. Draws itself in a notebook."""

    evaluation: Evaluation
    """Every number, as a night's report holds them."""
    metrics: tuple[str, ...]
    """Names of the metrics asked for, in order."""
    notes: tuple[str, ...] = ()

    @property
    def systems(self) -> list[str]:
        """Names of what was measured, in order."""
        return list(self.evaluation.systems)

    def to_frame(self) -> "pd.DataFrame":
        """A row per system and metric: `value`, its 95 % interval `low` to `high`, and `users`."""
        import pandas as pd

        rows = [
            {"system": system, "metric": metric, **_interval(found[metric])}
            for system, found in self.evaluation.systems.items()
            for metric in self.metrics
            if metric in found
        ]
        return pd.DataFrame(rows, columns=["system", "metric", "value", "low", "high", "users"])

    def compare(self, first: str, second: str) -> "pd.DataFrame":
        """The first minus the second on the same users, with 95 % intervals of the difference.

        Parameters
        ----------
        first, second
            Names of systems.

        Returns
        -------
        pandas.DataFrame
            A row per metric: `metric`, `difference`, `low`, `high`, `p` (two-sided, not corrected) and
            `verdict`: `ahead`, `behind` or `cannot tell`, where the interval holds 0. A metric of the
            whole catalogue, as coverage, has no value per user and no row.
        """
        import pandas as pd

        for name in (first, second):
            if name not in self.evaluation.systems:
                raise UsageError(
                    "nothing of this name was measured",
                    where="compare",
                    found=name,
                    expected=", ".join(self.systems),
                )
        groups = self.evaluation.per_group
        paired = [m for m in self.metrics if f"{first}/{m}" in groups]
        table = (
            np.stack(
                [
                    groups[f"{first}/{m}"].astype(np.float64) - groups[f"{second}/{m}"]
                    for m in paired
                ],
                axis=1,
            )
            if paired
            else np.empty((len(groups["user"]), 0))
        )
        found = bootstrap(
            table, groups["user"], resamples=self.evaluation.resamples, seed=self.evaluation.seed
        )
        rows = []
        for place, metric in enumerate(paired):
            interval = found.interval(place)
            rows.append(
                {
                    "metric": metric,
                    "difference": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "p": found.p_value(place),
                    "verdict": _verdict(interval),
                }
            )
        return pd.DataFrame(rows, columns=["metric", "difference", "low", "high", "p", "verdict"])

    def save(self, path: str | Path) -> Path:
        """Write the page as one HTML file.

        Parameters
        ----------
        path
            `report.html`, in a folder that exists.
        """
        from recsys.evaluation.page import write_report

        file = Path(path)
        if file.suffix.lower() not in (".html", ".htm") or not file.parent.is_dir():
            raise UsageError(
                "a report is saved as an HTML file in a folder that exists",
                where="report.save",
                found=str(file),
                fix="report.save('report.html')",
            )
        with tempfile.TemporaryDirectory(prefix="recsys-report-") as place:
            page = write_report(self.evaluation, self._context, Path(place))
            file.write_bytes(page.read_bytes())
        return file

    @property
    def _context(self) -> Any:
        import time

        from recsys.evaluation.report_context import ReportContext

        return ReportContext(
            title=" against ".join(self.systems),
            created_at=time.time_ns() // 1000,
            data={"users asked": f"{self.evaluation.users:,}"},
            warnings=list(self.notes),
        )

    def _repr_html_(self) -> str:
        from html import escape

        from recsys.evaluation.page import verdict

        frame = self.to_frame()
        head = "".join(f"<th>{escape(m)}</th>" for m in self.metrics)
        body = ""
        for system in self.systems:
            own = frame[frame["system"] == system].set_index("metric")
            cells = "".join(f"<td>{_cell(own, metric)}</td>" for metric in self.metrics)
            body += f"<tr><th>{escape(system)}</th>{cells}</tr>"
        notes = "".join(f"<p>{escape(n)}</p>" for n in (*self.notes, *self.evaluation.warnings))
        return (
            f"<p><b>{escape(verdict(self.evaluation))}</b></p>"
            f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"
        )

    def __repr__(self) -> str:
        from recsys.evaluation.page import verdict

        return verdict(self.evaluation)


def _interval(found: Interval) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "users": found.users}


def _verdict(interval: Interval) -> str:
    from recsys.evaluation.evaluation import AHEAD, BEHIND, UNCLEAR

    if interval.low is None or interval.high is None or interval.low <= 0 <= interval.high:
        return UNCLEAR
    return AHEAD if interval.low > 0 else BEHIND


def _cell(own: "pd.DataFrame", metric: str) -> str:
    if metric not in own.index:
        return "–"
    row = own.loc[metric]
    if row["value"] is None or row["value"] != row["value"]:
        return "–"
    if row["low"] is None or row["low"] != row["low"]:
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f} <small>({row['low']:.4f} to {row['high']:.4f})</small>"
