"""Tuning a new encoder: what it learns from, where it starts, and what is said of it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.distribution import install_extra
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.encoder.manifest import EncoderManifest
from recsys.features.impressions import Impressions
from recsys.features.interactions import Interactions
from recsys.storage.files import hash_json
from recsys.storage.stages import Stage, StageResult, code_version
from recsys.storage.stages.stage import Make
from recsys.training.finetune.verdict import FROZEN
from recsys.training.night.hidden_items import hidden, untaught_share
from recsys.training.night.inputs import BASIS, Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import FOLDER

if TYPE_CHECKING:
    from recsys.training.finetune.fit_inputs import FitInputs, FittedEncoder

CODE = (
    *BASIS,
    "recsys.encoder",
    "recsys.retrieval.ann",
    "recsys.retrieval.history_kernels",
    "recsys.training.cut_short",
    "recsys.training.deterministic",
    "recsys.training.device_plan",
    "recsys.training.device_speed",
    "recsys.training.finetune",
    "recsys.training.night.hidden_items",
)
SHOWN_AT_MOST = 20_000_000
"""Items of shown lists that a fit looks at, the latest: matching them to events takes some 100 bytes
each."""


def tuned(night: Night, identity: dict[str, Any]) -> StageResult[Path]:
    """The encoder of an identity; its folder."""
    return _tuned(night, identity, lambda out: _fit(night, identity, out))


def _tuned(night: Night, identity: dict[str, Any], makes: Make) -> StageResult[Path]:
    stage = night.runner.run(
        Stage(
            "encoder",
            identity,
            makes,
            encoder_folder,
            code=CODE,
            personal=False,
        )
    )
    if not stage.skipped and stage.made:
        _say_what_it_learned(night, stage)
    return stage


def encoder_folder(stage: StageResult[Any]) -> Path:
    """Opens a stage that left an encoder."""
    return stage.folder / FOLDER


def _fit(night: Night, identity: dict[str, Any], out: Path) -> dict[str, Any]:
    inputs = fit_inputs(night, identity)
    if inputs.previous is not None:
        night.reporter.say("encoder: starts from the champion's weights, and beside it afresh")
    with _watched(night) as (on_metrics, progress):
        manifest = inputs.fit(
            out / FOLDER,
            on_untuned=night.alarm,
            checkpoint_dir=_checkpoints(night, identity),
            vector_cache=night.workspace.vectors,
            on_metrics=on_metrics,
            progress=progress,
        )
    return {"manifest": manifest}


def fit_inputs(night: Night, identity: dict[str, Any]) -> "FitInputs":
    """Everything that a fit of this identity reads, here or apart from the workspace."""
    from recsys.training.finetune.fit_inputs import FitInputs

    inputs, until = night.data, int(identity["until"])
    return FitInputs(
        to_learn_from(inputs, until),
        inputs.texts,
        night.config.encoder,
        until,
        night.config.seed,
        night.budget("encoder"),
        shown_before(inputs, until),
        _champions(night, until),
        identity,
    )


def adopted(night: Night, fitted: "FittedEncoder") -> StageResult[Path]:
    """The encoder of a fit apart from the workspace, under the identity that its inputs had: as though
    the night that wrote them had fitted it."""

    def take(out: Path) -> dict[str, Any]:
        shutil.copytree(fitted.folder, out / FOLDER)
        return {"manifest": fitted.manifest}

    return _tuned(night, fitted.identity, take)


def to_learn_from(inputs: Inputs, until: int) -> Interactions:
    """Events before a time, without those on the items that a night treats as new."""
    events = inputs.interactions.before(until)
    return events.where(~_untaught(inputs)[events.item])


def _untaught(inputs: Inputs) -> npt.NDArray[np.bool_]:
    return hidden(inputs, untaught_share(inputs))


def _champions(night: Night, until: int) -> Path | None:
    """The champion's encoder, where tonight's may start from it."""
    registry = night.registry
    try:
        version = registry.champion()
        if version is None:
            return None
        folder = registry.local_path(version) / FOLDER
        manifest = EncoderManifest.read(folder)
    except RecsysError as problem:
        night.reporter.warn(
            f"encoder: starts afresh, the champion's cannot be read: {problem.what}"
        )
        return None
    if manifest.base_model != night.config.encoder.model:
        return None
    if not manifest.learned.get("fine_tuned") or manifest.fit_until > until:
        return None
    if manifest.learned.get("serves") == FROZEN:
        return None  # its weights are the base model's, where the other start begins anyway
    return folder


def _checkpoints(night: Night, identity: dict[str, Any]) -> Path:
    """Where a killed fit of exactly this finds its last state; those of others are removed."""
    place = night.workspace.encoder_checkpoints
    name = hash_json([identity, night.data.texts_key, code_version(CODE)])[:16]
    for other in place.glob("*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return place / name


def shown_before(inputs: Inputs, until: int) -> Impressions | None:
    """Lists shown before a time, as the fit reads them; None without impressions."""
    lists = inputs.tables.ranked_lists
    if lists is None or not len(lists):
        return None
    last = int(np.searchsorted(lists.time, until))
    first = int(np.searchsorted(lists.offsets, lists.offsets[last] - SHOWN_AT_MOST))
    lists, taught = lists.part(first, last), np.append(~_untaught(inputs), False)
    return replace(lists, items=np.where(taught[lists.items], lists.items, -1).astype(np.int32))


@contextlib.contextmanager
def _watched(night: Night) -> Iterator[tuple[Callable[..., None], Callable[..., None]]]:
    """Callbacks of a fit that show its progress and, where wished, write TensorBoard's files."""
    board = _tensorboard(night) if night.config.encoder.tensorboard else None
    with night.reporter.task("encoder") as task:
        done = {"encode": 0}

        def progress(phase: str, now: int, of: int) -> None:
            task.advance(now - done[phase], note=f"of {of:,} texts read once")
            done[phase] = now

        def on_metrics(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                if board is not None:
                    board.add_scalar(name, value, step)
                if "loss" in name and "valid" not in name:
                    task.advance(1, note=f"step {step}, loss {value:.3f}")

        try:
            yield on_metrics, progress
        finally:
            if board is not None:
                board.close()


def _tensorboard(night: Night) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "TensorBoard is not installed",
            where="encoder.tensorboard",
            expected="the package tensorboard",
            fix=f"{install_extra('tensorboard')}, or set encoder.tensorboard: false",
        ) from None
    return SummaryWriter(str(night.workspace.tensorboard))


def _say_what_it_learned(night: Night, stage: StageResult[Path]) -> None:
    """What tuning gave, in lines of the log and as curves of a run in MLflow."""
    manifest = stage.facts["manifest"]
    if manifest["unknown"]:  # the fit has said so; the report shall too
        night.reporter.warnings.append(
            f"{manifest['unknown']:,} of {manifest['texts']:,} texts are in a language or script that "
            "the encoder hardly knows; a multilingual encoder.model would read them"
        )
    learned = manifest["learned"]
    if not learned.get("fine_tuned"):
        return
    for row in learned["compared"]:
        night.reporter.say(f"encoder: {row['name']}: validation nDCG {row['ndcg']:.4f}")
    if learned["serves"] == FROZEN:
        night.reporter.warn(f"encoder: {learned['verdict']}")
    else:
        night.reporter.say(f"encoder: {learned['verdict']}")
    beside = "and" if learned["in_company"] else "without"
    night.reporter.say(
        f"encoder: a history's items ask {beside} what was acted on beside them: validation nDCG "
        f"{learned['alone_ndcg']:.4f} alone, {learned['in_company_ndcg']:.4f} in company"
    )
    layers = learned["layers"]
    if (
        learned["serves"] != FROZEN
        and night.config.encoder.freeze != "head"
        and not layers["tuned"]
    ):
        night.reporter.warn(
            f"encoder: the language model's own layers are as they were: {layers['steps']} steps of "
            f"tuning them raised neither the validation nDCG of {layers['ndcg_before']:.4f} nor, at an "
            "nDCG that cannot be told from it, the likelihood"
        )
    curves = {
        "encoder_loss": list(enumerate(learned["losses"], 1)),
        "encoder_valid_ndcg": [(int(v["step"]), v["ndcg"]) for v in learned["validations"]],
    }
    try:
        night.registry.log_curves("encoder", curves)
    except RecsysError as problem:
        night.reporter.warn(f"encoder: its curves are not in MLflow: {problem.what}")
