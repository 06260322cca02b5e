"""`recsys experiments`: start and stop an experiment on live people, and say what it came to."""

import json
import re
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recsys.data_schemas import columns as c
from recsys.data_schemas.api import SESSION, to_time
from recsys.data_schemas.config import ExperimentsConfig, RecsysConfig
from recsys.data_schemas.errors import UsageError
from recsys.storage.eventlog import export, written_log
from recsys.storage.eventlog.known import read_adopted
from recsys.storage.experiment_records import (
    CHALLENGER,
    DeclaredExperiment,
    Kind,
    find_experiment,
    read_experiments,
    start_experiment,
    stop_experiment,
)
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import CHAMPION, HELD_AGAINST, IN_TRIAL
from recsys.storage.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from recsys.evaluation.experiment_analysis import ExperimentResult, Missing
    from recsys.evaluation.logged_lists import LoggedLists

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
KNOWN, NEW = "known before", "new"
EVER: Final = 1 << 62


def start(
    config: RecsysConfig, name: str, kind: Kind, challenger: str, control: str | None, share: float
) -> DeclaredExperiment:
    """Start an experiment; services of the workspace take it up within seconds.

    Args:
        config: its `experiments:` are kept with the experiment.
        name: by which lists are logged.
        kind: `ab` (each unit gets one version) or `interleave` (each list holds both).
        challenger: version, by any of its names.
        control: version held against it; None for the one that is champion now, `champion` for
            whichever is champion at the time.
        share: of the units.

    Raises:
        UsageError: a name, a version or a share does not fit, or another experiment runs.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            "this is no name for an experiment",
            where="NAME",
            found=name,
            expected="letters, digits, `_`, `.` and `-`, 100 at most",
        )
    if not 0.0 < share <= 1.0 or (kind == "ab" and share == 1.0):
        expected = "above 0, below 1" if kind == "ab" else "above 0, 1 at most"
        raise UsageError("the share does not fit", where="--share", found=share, expected=expected)
    registry = Registry(config)
    theirs = str(registry.resolve(challenger))
    fixed = None if control == CHAMPION else str(registry.resolve(control or CHAMPION))
    if theirs == (fixed or str(registry.champion())):
        raise UsageError(
            "both arms would be the same version", where="--challenger", found=theirs,
            expected="another version; `recsys models list` shows them",
        )  # fmt: skip
    settings = config.experiments
    started = start_experiment(
        Workspace(config.workspace_path),
        DeclaredExperiment(
            name, kind, theirs, fixed, share, "",
            unit=settings.unit,
            position=_position(config),
            settings=settings.model_dump(mode="json"),
        ),
    )  # fmt: skip
    # A night removes old versions that nothing names.
    registry.hold({IN_TRIAL: int(theirs), HELD_AGAINST: None if fixed is None else int(fixed)})
    return started


def stop(config: RecsysConfig, name: str, reason: str) -> DeclaredExperiment:
    """End an experiment; everybody gets the champion within seconds.

    Raises:
        UsageError: there is none of that name, or it was stopped before.
    """
    stopped = stop_experiment(Workspace(config.workspace_path), name, reason or "no reason given")
    Registry(config).hold({IN_TRIAL: None, HELD_AGAINST: None})
    return stopped


def _position(config: RecsysConfig) -> int:
    """The log's end; 0 where no service has written one."""
    with written_log(config) as log:
        return 0 if log is None else log.last_position()


def report(
    config: RecsysConfig, name: str, out: Path | None = None
) -> tuple["ExperimentResult", Path]:
    """What an experiment came to, as a result and as a page.

    Args:
        config: of the workspace.
        name: of the experiment; `ab` and `interleave` are those of `recsys serve`'s own options.
        out: folder of the page; `reports/experiments/NAME` in the workspace when absent.

    Raises:
        UsageError: there is no such experiment, or no list of it was logged.
    """
    from recsys.evaluation.experiment_analysis import analyse, plan_of
    from recsys.evaluation.experiment_page import write_experiment
    from recsys.evaluation.logged_lists import read_events, read_lists
    from recsys.ingestion.tables.event_partitions import event_files
    from recsys.training.night.inputs import TABLES

    workspace = Workspace(config.workspace_path)
    declared = _declared(workspace, name)
    settings = config.experiments
    if declared.settings is not None:
        settings = ExperimentsConfig.model_validate(declared.settings)
    with tempfile.TemporaryDirectory(prefix=".experiment-", dir=workspace.folder(".")) as scratch:
        drained = Path(scratch)
        missing = _drain(config, workspace, declared, drained)
        lists = _of_experiment(read_lists([drained / "impressions.parquet"], 0, EVER), name)
        if not len(lists):
            raise UsageError(
                "no list of this experiment was logged yet",
                where=name,
                fix="see that a service runs on this workspace, with both versions open "
                "(`GET /v1/models`), and that people ask for lists",
            )
        declared = _versions_of(declared, lists, Registry(config))
        newest = workspace.newest_output("tables")
        tables = None if newest is None else newest / TABLES
        later = [drained / "events.parquet", *(event_files(tables) if tables else [])]
        events = read_events(later, lists, EVER)
    plan = plan_of(declared.kind, declared.challenger, declared.share, settings)
    _, grade = config.events.meaning().of(events.kinds, events.kind, events.value)
    result = analyse(
        plan,
        lists,
        events,
        grade,
        now=time.time_ns() // 1000,
        segments=_segments(config, tables, lists),
        missing=missing,
    )
    folder = out or workspace.reports / "experiments" / name
    return result, write_experiment(result, _facts(declared, settings), folder, name)


def _declared(workspace: Workspace, name: str) -> DeclaredExperiment:
    """The experiment of a name, one of the service's own options among them."""
    known = {one.name for one in read_experiments(workspace)}
    if name in known or name not in ("ab", "interleave"):
        return find_experiment(workspace, name)
    kind: Kind = "ab" if name == "ab" else "interleave"
    return DeclaredExperiment(name, kind, "", None, 0.5, "")


def _versions_of(
    declared: DeclaredExperiment, lists: "LoggedLists", registry: Registry
) -> DeclaredExperiment:
    """Of an experiment by `recsys serve`'s options: version and share as its lists tell them. Which team
    is the challenger's they do not: it is the one most often seen that is not the champion's."""
    if declared.challenger:
        return declared
    if declared.kind == "interleave":
        champion = str(registry.champion())
        teams = Counter(str(t) for t in lists.team if t is not None and t != champion)
        return replace(declared, challenger=teams.most_common(1)[0][0] if teams else "")
    challenged = lists.arm == CHALLENGER
    units = len(set(lists.users[~challenged])), len(set(lists.users[challenged]))
    share = min(max(units[1] / max(sum(units), 1), 1e-6), 1 - 1e-6)
    versions = sorted(set(map(str, lists.version[challenged])))
    return replace(declared, challenger="+".join(versions), share=share)


def _of_experiment(lists: "LoggedLists", name: str) -> "LoggedLists":
    import numpy as np

    return lists.take(np.flatnonzero(lists.experiment == name))


def _drain(
    config: RecsysConfig, workspace: Workspace, declared: DeclaredExperiment, out: Path
) -> tuple["Missing", "Missing"]:
    """The log since the start as tables, and the units of each arm of whom nothing is kept."""
    from recsys.evaluation.experiment_analysis import Missing

    with written_log(config) as log:
        if log is None:
            return Missing(0, 0), Missing(0, 0)
        export(log, declared.position, log.last_position(), out, read_adopted(workspace))
        gone = [r for r in log.tombstones() if r.position > declared.position]
    found = []
    for arm in (False, True):
        people = {r.payload[c.USER_ID] for r in gone}
        mine = {p for p in people if (declared.arm_of(p) == CHALLENGER) == arm}
        visits = {p for p in mine if p.startswith(SESSION)}
        found.append(Missing(len(mine - visits), len(visits)))
    return found[0], found[1]


def _segments(
    config: RecsysConfig, tables: Path | None, lists: "LoggedLists"
) -> dict[str, "npt.NDArray[np.object_]"]:
    """Column → value of each coded person: known before the experiment or new, and own columns of
    users (`evaluation.segments`)."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from recsys.evaluation.logged_lists import before_lists
    from recsys.ingestion.tables.event_partitions import event_files

    if tables is None:
        return {}
    ids = pa.array(lists.user_ids, pa.string())
    past = before_lists(event_files(tables), c.USER_ID, lists)
    known = pc.is_in(ids, value_set=past.unique()).to_numpy(zero_copy_only=False)
    found = {"history": np.where(known, KNOWN, NEW).astype(object)}
    users = tables / "users.parquet"
    if users.is_file():
        columns = set(config.evaluation.segments) & set(pq.read_schema(users).names)
        table = pq.read_table(users, columns=[c.USER_ID, *sorted(columns)])
        place = pc.index_in(ids, value_set=table[c.USER_ID].combine_chunks())
        for column in sorted(columns):
            values = table[column].combine_chunks().take(place).to_pylist()
            found[column] = np.array(values, object)
    return found


def _facts(declared: DeclaredExperiment, settings: ExperimentsConfig) -> dict[str, Any]:
    def moment(at: int | None) -> str | None:
        return to_time(at).isoformat(timespec="minutes") if at else None

    facts = {
        "kind": "A/B" if declared.kind == "ab" else "interleaving (team draft)",
        "challenger": f"version {declared.challenger}",
        "control": "the champion" if declared.control is None else f"version {declared.control}",
        "share of the challenger": declared.share,
        "started": moment(declared.started),
        "stopped": moment(declared.stopped) or "it runs",
        "why it was stopped": declared.reason or None,
        "unit": settings.unit,
        "counted per": settings.denominator,
        "several events of one kind": settings.count,
        "events that count": "on items of the list"
        if settings.attribution == "shown"
        else "whatever the person did",
        "hours in which they count": settings.attribution_hours,
        "margin": settings.margin,
        "guardrails": settings.guardrails or None,
    }
    return {label: value for label, value in facts.items() if value is not None}


def result_lines(result: "ExperimentResult", page: Path) -> list[str]:
    """The result on a terminal."""
    from recsys.evaluation.experiment_analysis import POSITIVE

    lines = [result.decision]
    for kind, rates in result.rates.items():
        found, always = rates.difference, rates.difference.always
        if kind in (POSITIVE, result.plan.metric) and found.value is not None:
            said = "" if always.low is None else f" [{always.low:+.4f}, {always.high:+.4f}]"
            lines.append(
                f"{kind}: {rates.control:.4f} → {rates.challenger:.4f}, {found.value:+.4f}{said}"
            )
    liked = result.deciding if result.preferences else None
    if liked is not None and liked.value is not None:
        low, high = liked.always.low, liked.always.high
        said = "" if low is None else f" [{low:+.4f}, {high:+.4f}]"
        lines.append(f"{result.plan.metric}: preference {liked.value:+.4f}{said}")
    lines += [f"guardrail {g.name}: {g.status}" for g in result.guards if g.status == "broken"]
    if result.crossed:
        lines.append(f"{result.crossed:,} units were seen in both arms and are left out")
    return [*lines, f"page: {page}"]


def listed(experiments: list[DeclaredExperiment]) -> str:
    """All experiments as lines."""
    if not experiments:
        return "no experiment was started yet"
    return "\n".join(
        f"{one.name}: {one.kind}, version {one.challenger} against "
        f"{one.control or 'the champion'}, share {one.share:g}, "
        + ("runs" if one.stopped is None else f"stopped: {one.reason}")
        for one in experiments
    )


def listed_json(experiments: list[DeclaredExperiment]) -> str:
    """All experiments as one JSON document; their salts stay here."""
    rows = [{k: v for k, v in vars(one).items() if k != "salt"} for one in experiments]
    return json.dumps(rows, indent=2)
