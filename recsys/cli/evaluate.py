"""`recsys evaluate`: the report of a registered model, on its own test window or on later events."""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data_schemas import columns as c
from data_schemas.config import RecsysConfig, load_config
from data_schemas.errors import DataRefused, ExitCode, RecsysError, UsageError
from recsys.cli.live import open_runtime, resolve

if TYPE_CHECKING:
    from recsys.evaluation.lists import RankedLists, Truth
    from recsys.ranking import Runtime

LIST_LENGTH = 100
REQUIRED = (c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TIMESTAMP)


def run_evaluate(args: argparse.Namespace) -> int:
    """Write report.html, report.json and report.parquet into --out."""
    config = load_config(args.config)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UsageError("the output is not a folder", where="--out", found=str(out))
    if args.events is None:
        return _own_report(config, args.model, out)
    return _on_events(config, args.model, Path(args.events), out)


def _own_report(config: RecsysConfig, model: str | None, out: Path) -> int:
    """The report made when the version was registered: its recipe, fitted before its test window.

    The released models have since been fitted on that window, so measuring them on it again would
    flatter; the report of the recipe is the honest one.
    """
    from recsys.registry import Registry

    registry = Registry(config)
    entry = registry.show(resolve(registry, model))
    folder = Path(entry.report) if entry.report else None
    if folder is None or not (folder / "report.html").exists():
        raise RecsysError(
            "the report of this version is no longer kept",
            where=f"version {entry.version}",
            fix="give events that happened after it: --events FILE",
        )
    out.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    print(f"version {entry.version}: report of its own test window: {out / 'report.html'}")
    return ExitCode.DONE


@dataclass(frozen=True)
class Held:
    """Events that happened after a model, coded: one row per usable event."""

    user: npt.NDArray[np.object_]
    item: npt.NDArray[np.int32]
    grade: npt.NDArray[np.int8]
    time: npt.NDArray[np.int64]
    unknown_items: int


def _on_events(config: RecsysConfig, model: str | None, file: Path, out: Path) -> int:
    """Lists as of the end of the model's data, judged by what the events say users did next."""
    from recsys.evaluation.context import Check, ReportContext
    from recsys.evaluation.page import verdict, write_report
    from recsys.evaluation.report import evaluate_lists
    from recsys.evaluation.segments import by_activity, by_item_popularity

    runtime = open_runtime(config, model)
    held = read_events(file, runtime)
    users, truth = _truth(runtime, held)
    systems = _lists(runtime, users)
    popularity = _popularity(runtime)
    history = np.array([len(runtime.state.history(u, 2**62).item) for u in users])
    fitted = int(runtime.bundle.manifest["data_window"][1])
    early = int((held.time < fitted).sum())
    check = Check(
        "the events lie after the model's data",
        early == 0,
        f"{early:,} of {len(held.time):,} events lie before the end of what the model was fitted on",
    )
    evaluation = evaluate_lists(
        truth,
        systems,
        main="recsys",
        ks=config.evaluation.k,
        segments={
            "users": by_activity(history),
            "items": by_item_popularity(truth, popularity),
        },
        catalogue_size=runtime.state.catalogue.n_items,
        item_popularity=popularity,
        item_vectors=None,
        seed=config.seed,
        resamples=config.evaluation.bootstrap,
    )
    context = ReportContext(
        title=f"{config.name} version {runtime.version} on {file.name}",
        model_version=runtime.version,
        data={"events": str(file), "events on unknown items": held.unknown_items},
        leak_checks=[check],
        caveats=("Lists are those of the end of the model's data, whenever a user came back.",),
    )
    page = write_report(evaluation, context, out)
    print(verdict(evaluation))
    print(f"report: {page}")
    if not check.passed:
        print(f"leak: {check.name}: {check.detail}")
        return ExitCode.PROMOTION_REFUSED
    return ExitCode.DONE


def read_events(file: Path, runtime: "Runtime") -> Held:
    """Positive events of a Parquet file.

    Raises:
        UsageError: there is no such file.
        DataRefused: it is not Parquet, lacks a column, has times without a zone, or no row of it
            can be used.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        raise UsageError("there is no such file", where="--events", found=str(file))
    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise DataRefused(
            "this is not a Parquet file", where=str(file), found=str(error)[:200]
        ) from None
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise DataRefused(
            f"column '{missing[0]}' is missing",
            where=str(file),
            found=", ".join(table.column_names),
            expected=", ".join(REQUIRED),
        )
    kind = table[c.TIMESTAMP].type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise DataRefused(
            "timestamps need a time zone",
            where=f"{file}: {c.TIMESTAMP}",
            found=str(kind),
            expected="timestamp with zone UTC",
            fix="convert them, for example with pandas' dt.tz_localize('UTC')",
        )
    return _usable(table, runtime, file)


def _usable(table: Any, runtime: "Runtime", file: Path) -> Held:
    import pyarrow as pa

    item = runtime.state.catalogue.indices_of(table[c.ITEM_ID].cast(pa.large_string()))
    names, kind = np.unique(
        np.array(table[c.EVENT_TYPE].to_pylist(), dtype=str), return_inverse=True
    )
    value = (
        table[c.VALUE].cast(pa.float64()).to_numpy(zero_copy_only=False)
        if c.VALUE in table.column_names
        else np.full(len(item), np.nan)
    )
    _, grade = runtime.state.meaning.of([str(n) for n in names], kind, value)
    time = table[c.TIMESTAMP].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    user = np.array(table[c.USER_ID].cast(pa.string()).to_pylist(), dtype=object)
    keep = (item >= 0) & (grade > 0)
    if not keep.any():
        raise DataRefused(
            "no event of the evaluation window can be used",
            where=str(file),
            found=f"{len(item):,} rows, {(item < 0).sum():,} on unknown items, "
            f"{(grade <= 0).sum():,} not positive",
            expected="positive events on known items",
        )
    return Held(user[keep], item[keep], grade[keep], time[keep], int((item < 0).sum()))


def _truth(runtime: "Runtime", held: Held) -> tuple[list[str], "Truth"]:
    """Users and what each newly acted on; items acted on before are not relevant again."""
    from recsys.evaluation.lists import Truth

    users, group = np.unique(held.user.astype(str), return_inverse=True)
    now = runtime.state.last_time() + 1
    fresh = np.ones(len(group), bool)
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(len(users) + 1))
    for number, user in enumerate(users):
        mine = order[edges[number] : edges[number + 1]]
        fresh[mine] = ~np.isin(held.item[mine], runtime.state.history(str(user), now).item)
    count = len(users)
    truth = Truth.of(
        group[fresh],
        held.item[fresh],
        held.grade[fresh],
        np.arange(count),
        np.full(count, now, np.int64),
    )
    return [str(u) for u in users], truth


def _lists(runtime: "Runtime", users: list[str]) -> "list[RankedLists]":
    """Ours, and each source of the release alone."""
    from recsys.asking import Ask
    from recsys.evaluation.lists import RankedLists
    from recsys.progress import Reporter

    now = runtime.state.last_time() + 1
    catalogue = runtime.state.catalogue
    ours: list[tuple[Any, Any]] = []
    alone: dict[str, list[tuple[Any, Any]]] = {name: [] for name in runtime.recall.proposing}
    with Reporter().task("evaluate", len(users)) as task:
        for user in users:
            answer = runtime.answer(Ask(user, now, k=LIST_LENGTH))
            ours.append((catalogue.indices_of(answer.item_ids), answer.scores))
            history = runtime.state.history(user, now)
            blocked = catalogue.blocked.copy()
            blocked[history.item] = 1
            for name, source in runtime.recall.proposing.items():
                found = source.recall(history, LIST_LENGTH, now, blocked)
                alone[name].append((found.items, found.scores))
            task.advance()
    made = [RankedLists.of("recsys", ours, LIST_LENGTH)]
    return made + [RankedLists.of(name, lists, LIST_LENGTH) for name, lists in alone.items()]


def _popularity(runtime: "Runtime") -> npt.NDArray[np.int64]:
    """int64[N]: events of each item so far."""
    return runtime.state.item_totals()
