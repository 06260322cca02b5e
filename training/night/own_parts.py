"""Sources, metrics and hooks of a user's own: loaded and tried before any work, so that a wrong one
costs no night.

A hook that fails later is a warning with its file and line, and the night goes on; one that was to say
whether a version may be promoted keeps the champion, for nothing else has said yes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recsys.data_schemas.config import HooksConfig, RecsysConfig
from recsys.evaluation.metrics import gate_metric
from recsys.evaluation.own_metrics import own_metrics_of, require_callable, require_working
from recsys.retrieval.source_checks import require_conforming
from recsys.retrieval.source_kinds import declare, require_known, source_class
from recsys.storage.plug_ins import HOOKS, line_of, load_named
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageResult

MOMENTS: Final = tuple(HooksConfig.model_fields)
"""When a hook is called; each takes one argument."""


@dataclass(frozen=True)
class StageEnd:
    """What `on_stage_end` is told."""

    name: str
    seconds: float
    skipped: bool
    """Whether an earlier night's output was used."""
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class PromotionCandidate:
    """What `before_promote` is told."""

    model: str
    """Name of the registered model."""
    champion: int | None
    """The version whose place it would take."""
    metrics: Mapping[str, Mapping[str, Any]]
    """System → metric → value, low, high."""
    reasons: tuple[str, ...]
    """Why the gate would promote it, a line per rule."""


def require_sound(config: RecsysConfig) -> None:
    """Try everything of the user's own, in seconds.

    Raises:
        UsageError: the first that cannot be used, with its file and line.
    """
    for name in declare(config.sources.own):
        require_conforming(source_class(name))
    require_known(config.sources.use or (), config.sources.dials)
    require_working(own_metrics_of(config.evaluation))
    gate_metric(config.gate.metric)
    for moment in MOMENTS:
        for name, hook in hooks_of(config, moment):
            require_callable(f"hooks.{moment}", name, hook, 1)


def hooks_of(config: RecsysConfig, moment: str) -> list[tuple[str, Callable[..., Any]]]:
    """(address, function) of what is called at a moment."""
    addresses: tuple[str, ...] = getattr(config.hooks, moment)
    return [(a, load_named(a, f"hooks.{moment}", HOOKS)) for a in addresses]


def stage_listener(
    config: RecsysConfig, reporter: Reporter
) -> Callable[[StageResult[Any]], None] | None:
    """What a runner calls at the end of each stage; None where nobody listens."""
    if not config.hooks.on_stage_end:
        return None

    def tell(result: StageResult[Any]) -> None:
        end = StageEnd(result.name, result.seconds, result.skipped, result.facts)
        _call_all(config, "on_stage_end", end, reporter)

    return tell


def tell_report(config: RecsysConfig, page: Path, reporter: Reporter) -> None:
    """Call the hooks of a page that is written."""
    if config.hooks.on_report:
        _call_all(config, "on_report", page, reporter)


def vetoes(
    config: RecsysConfig, candidate: PromotionCandidate, reporter: Reporter
) -> list[tuple[str, str]]:
    """(hook, reason) of everything that speaks against promoting."""
    found = []
    for name, hook in hooks_of(config, "before_promote"):
        try:
            reason = hook(candidate)
        except Exception as error:
            reason = f"it failed: {_in_words(error)}"
            reporter.warn(f"hooks.before_promote: {name} {reason}")
        if reason:
            found.append((name, str(reason)))
    return found


def _call_all(config: RecsysConfig, moment: str, what: Any, reporter: Reporter) -> None:
    for name, hook in hooks_of(config, moment):
        try:
            hook(what)
        except Exception as error:
            reporter.warn(f"hooks.{moment}: {name} failed: {_in_words(error)}")


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error} ({line_of(error)})"
