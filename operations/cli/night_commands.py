"""`recsys nightly` and `recsys train`."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.config import RecsysConfig, load_config
from recsys.data_schemas.errors import ExitCode, RecsysError, UsageError
from recsys.operations.ahead_lines import differences

if TYPE_CHECKING:
    from recsys.operations.notify import Outcome
    from recsys.storage.progress import Reporter
    from recsys.training.finetune.fit_inputs import FittedEncoder
    from recsys.training.night.night_result import NightResult
    from recsys.training.night.usage import Usage

OUTCOMES: "dict[str, Outcome]" = {
    "promote": "promoted",
    "challenger": "challenger",
    "reject": "refused",
}
SHOWN = ("ndcg@10", "recall@10", "recall@100", "mrr", "coverage@100")
"""Columns of the printed table, where they were measured."""


def run_nightly(args: argparse.Namespace) -> int:
    """The whole night; with `--until`, the nights missed before it first, in order."""
    from recsys.storage.progress import Reporter
    from recsys.training.night.catchup import missed

    config = load_config(args.config)
    one_night = args.single or args.dry_run
    nights = [moment(args.until)] if one_night else missed(config, moment(args.until))
    if len(nights) > 1:
        print(f"catching up: {len(nights)} nights, until " + ", ".join(map(_date, nights)))
    code = ExitCode.DONE
    reporter = Reporter(as_json=args.log_format == "json")
    for until in nights:
        code = _one_night(config, until, args.dry_run, reporter)
    return code


def _one_night(
    config: RecsysConfig, until: int | None, dry_run: bool, reporter: "Reporter"
) -> ExitCode:
    from recsys.operations.notify import notify
    from recsys.training.nightly import run_night

    try:
        result = run_night(config, until=until, dry_run=dry_run, reporter=reporter)
    except Exception as error:
        if not dry_run:
            _leave_metrics(config, "failed", None, reporter)
            notify(config, "failed", {"reason": redacted(str(error))[:2000]}, reporter)
        raise
    if dry_run:
        print("\n".join(result.lines))
        return ExitCode.DONE
    say(result)
    assert result.decision is not None
    _leave_metrics(config, OUTCOMES[result.decision.action], result.usage, reporter)
    if not result.unchanged:
        tell(config, result, reporter)
    return exit_code(result)


def _leave_metrics(
    config: RecsysConfig, outcome: "Outcome", usage: "Usage | None", reporter: "Reporter"
) -> None:
    """For Prometheus. A night stands whether or not its metrics could be written."""
    from recsys.operations.night_metrics import write_night_metrics
    from recsys.storage.workspace import Workspace

    try:
        write_night_metrics(Workspace(config.workspace_path), outcome, usage)
    except (OSError, RecsysError) as error:
        reporter.warn(f"the night's metrics could not be written: {error}")


def _date(at: int | None) -> str:
    assert at is not None
    return f"{datetime.fromtimestamp(at / 1_000_000, UTC):%Y-%m-%d %H:%M}".removesuffix(" 00:00")


def exit_code(result: "NightResult") -> ExitCode:
    """4 when the gate refused, else 0."""
    refused = result.decision is not None and not result.decision.promoted
    return ExitCode.PROMOTION_REFUSED if refused else ExitCode.DONE


def moment(text: str | None) -> int | None:
    """A date or time of the command line as µs UTC; None stays None.

    Raises:
        UsageError: it is not a date.
    """
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            "this is not a date",
            where="--until",
            found=text,
            expected="2026-01-31 or 2026-01-31T04:00",
        ) from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return int(at.timestamp() * 1_000_000)


def say(result: "NightResult") -> None:
    """The night in a few lines on standard output."""
    if result.unchanged:
        print("everything is unchanged since the last night")
    print(table(result.metrics))
    print("\n".join(["", *differences(result.report)]))
    decision = result.decision
    assert decision is not None
    verb = {
        "promote": "promoted to champion",
        "challenger": "kept as CHALLENGER; the champion stays",
    }.get(decision.action, "REFUSED by the gate")
    print(f"\nversion {result.version}: {verb}")
    for line in (decision.headline, decision.power, *decision.notes):
        if line:
            print(f"  {line}")
    for reason in decision.reasons:
        if not decision.promoted or "champion" in reason:
            print(f"  {reason}")
    for text in result.cut_short:
        print(f"cut short: {text}")
    print(f"report: {result.report}")


def table(metrics: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """Systems by metrics, with the 95 % interval of the first."""
    if not metrics:
        return ""
    from recsys.evaluation.report_context import or_dash

    columns = [m for m in SHOWN if any(m in found for found in metrics.values())]
    width = max(len(name) for name in metrics)
    lines = ["  ".join([f"{'':<{width}}", f"{columns[0]:<22}", *(f"{m:>12}" for m in columns[1:])])]
    for name, found in metrics.items():
        first = found.get(columns[0], (None, None, None))
        cells = [f"{or_dash(first[0])} [{or_dash(first[1])}, {or_dash(first[2])}]"]
        cells += [f"{or_dash(found.get(m, (None,))[0]):>12}" for m in columns[1:]]
        lines.append("  ".join([f"{name:<{width}}", f"{cells[0]:<22}", *cells[1:]]))
    return "\n".join(lines)


def tell(config: RecsysConfig, result: "NightResult", reporter: "Reporter") -> None:
    """Tell the configured webhook, when there is one."""
    from recsys.operations.notify import notify

    assert result.decision is not None
    facts = {
        "version": result.version,
        "reason": "; ".join(result.decision.reasons)[:2000],
        "report": str(result.report),
    }
    notify(config, OUTCOMES[result.decision.action], facts, reporter)


def run_train(args: argparse.Namespace) -> int:
    """One step of the night, with what it needs before it; nothing is registered."""
    from recsys.encoder.device import on_device
    from recsys.operations.own_inputs import ALL, refuse_own_inputs
    from recsys.storage.progress import Reporter
    from recsys.storage.stages import StageRunner
    from recsys.storage.workspace import Workspace
    from recsys.training.night import (
        data_leaks,
        fit_ranker,
        fit_sources,
        ranking_data,
        read_data,
        refresh_encoder,
        release,
    )
    from recsys.training.night.night_context import Night
    from recsys.training.night.products import FULL

    config = load_config(args.config)
    workspace = Workspace(config.workspace_path)
    fitted = _fitted(args)
    if args.inputs_only is not None:
        folder = Path(args.inputs_only)
        refuse_own_inputs(folder, "--inputs-only", config, args.config, writes=ALL)
    with on_device(config.device), workspace.lock():
        reporter = Reporter()
        night = Night(config, workspace, StageRunner(workspace, reporter), reporter)
        if fitted is not None:
            return _done(refresh_encoder.adopt(night, fitted).product, fitted.manifest)
        night.drained = read_data.drain(night)
        night.tables = read_data.validate(night)
        night.tables = data_leaks.leave_out_leaks(night)
        night.data = read_data.split(night, read_data.load(night.tables.product, night.config))
        if args.step == "encoder" and args.probe:
            return _probe(night, args)
        if args.step == "encoder" and args.search is not None:
            return _search(night, args.search)
        if args.inputs_only is not None:
            return _write_inputs(night, Path(args.inputs_only))
        night.encoded = refresh_encoder.refresh(night)
        if args.step == "encoder":
            return _done(night.encoded.folder, night.encoded.stage.facts)
        night.recipe = fit_sources.tune(night)
        if args.step == "collaborative":
            for name, stage in release.refit(night).stages.items():
                print(f"{name}: {stage.folder / name}")
            return ExitCode.DONE
        night.learned = ranking_data.build_ranking_data(night, "ranker")
        rankers = fit_ranker.fit(night)
        return _done(rankers.product / FULL, rankers.facts["ranker"])


def _fitted(args: argparse.Namespace) -> "FittedEncoder | None":
    """What `--fitted` names, read before anything is held or written.

    Raises:
        UsageError: an option of the encoder stands beside another step, or no fit has ended there.
    """
    for option in ("inputs_only", "fitted"):
        if getattr(args, option) is not None and args.step != "encoder":
            raise UsageError(
                "this option is the encoder's",
                where="--" + option.replace("_", "-"),
                found=f"recsys train {args.step}",
                expected="recsys train encoder",
            )
    if args.fitted is None:
        return None
    from recsys.training.finetune.fit_inputs import FittedEncoder

    return FittedEncoder.read(Path(args.fitted))


def _write_inputs(night: Any, folder: Path) -> int:
    """What tonight's fit would read, and how it is run."""
    from recsys.training.night import refresh_encoder, tune_encoder

    tune_encoder.fit_inputs(night, refresh_encoder.new_identity(night)).write(folder)
    print(
        f"{folder}: what the fit reads; it says what people did\n"
        f"  next: recsys fit-encoder --inputs {folder} --out OUT\n"
        f"  or:   torchrun --nproc-per-node=N -m recsys fit-encoder --inputs {folder} --out OUT\n"
        "  then: recsys train encoder --fitted OUT"
    )
    return ExitCode.DONE


def _done(path: Any, facts: Mapping[str, Any]) -> int:
    print(path)
    for name, value in facts.items():
        if isinstance(value, int | float | str):
            print(f"  {name}: {value}")
    return ExitCode.DONE


def _probe(night: Any, args: argparse.Namespace) -> int:
    from recsys.training.finetune.probe import probe

    strategies = _listed(args.strategies) or ("head", "last_n")
    known = ("head", "last_n", "lora", "full")
    if wrong := [name for name in strategies if name not in known]:
        raise UsageError(
            "there is no such freeze strategy",
            where="--strategies",
            found=", ".join(wrong),
            expected="some of " + ", ".join(known),
        )
    data = night.data
    until = data.windows.encoder_until
    found = probe(
        data.interactions.before(until),
        data.texts,
        night.config.encoder,
        fit_until=until,
        seed=night.config.seed,
        seconds_each=night.budget("encoder") / 2,
        models=_listed(args.models),
        strategies=strategies,
        on_row=lambda row: night.reporter.say(f"probe: {row.model}, {row.freeze} done"),
    )
    print(found.render())
    return ExitCode.DONE


def _listed(text: str | None) -> tuple[str, ...]:
    """The names of a comma-separated argument."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _search(night: Any, minutes: float) -> int:
    """Search the encoder's rates; an interrupted search goes on when it is asked for again."""
    from recsys.training.finetune.search import search

    if minutes <= 0:
        raise UsageError(
            "a search needs time", where="--search", found=minutes, expected="minutes above 0"
        )
    trials: list[tuple[int, float]] = []

    def on_trial(number: int, value: float, settings: dict[str, Any]) -> None:
        trials.append((number, value))
        shown = ", ".join(f"{name} {chosen:.2g}" for name, chosen in settings.items())
        night.reporter.say(f"search: trial {number}: validation nDCG {value:.4f} with {shown}")

    data = night.data
    until = data.windows.encoder_until
    best, value = search(
        data.interactions.before(until),
        data.texts,
        night.config.encoder,
        fit_until=until,
        seed=night.config.seed,
        seconds=minutes * 60,
        storage=night.workspace.encoder_search,
        on_trial=on_trial,
    )
    night.registry.log_curves("encoder-search", {"search_valid_ndcg": trials})
    print(f"best validation nDCG {value:.4f}; in recsys.yaml:\n\nencoder:")
    for name in ("learning_rate", "head_learning_rate", "logq"):
        print(f"  {name}: {getattr(best, name):.3g}")
    return ExitCode.DONE
