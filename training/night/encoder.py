"""Refreshing the encoder when it is due, and encoding what changed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_schemas.errors import RecsysError, UsageError
from features.interactions import DAY, Floats
from recsys.encoder.encode import encode_items
from recsys.encoder.index import FOLDER as INDEX
from recsys.encoder.index import open_index, write_index
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.tower import TOWER, TOWER_JSON, InterestSource, Tower
from recsys.files import atomic_write, hash_json, link_tree
from recsys.registry import Registry
from recsys.stages import StageResult, code_version
from training.finetune import fit_encoder, refit_tower, too_little
from training.night import ageing
from training.night.context import Night
from training.night.inputs import Inputs

CODE = ("recsys.encoder", "training.finetune")
POINTER = "encoder.json"
FOLDER = "encoder"


@dataclass(frozen=True)
class Encoded:
    """The encoder in use and the vectors of all items."""

    stage: StageResult
    vectors_stage: StageResult
    fit_until: int

    @property
    def folder(self) -> Path:
        return self.stage.path / FOLDER

    def vectors(self) -> Floats:
        """float32[N,d], memory-mapped."""
        vectors: Floats = np.load(self.vectors_stage.path / "vectors.npy", mmap_mode="r")
        return vectors

    def source(self) -> InterestSource:
        """The fine-tuned encoder with its user tower, as a source."""
        vectors = self.vectors()
        index = open_index(self.vectors_stage.path, len(vectors))
        return InterestSource.open(self.folder, vectors, self.fit_until, neighbours=index)

    @property
    def index(self) -> Path | None:
        """Folder of the search index over the vectors, where they are many."""
        folder = self.vectors_stage.path / INDEX
        return folder if folder.is_dir() else None


def refresh(night: Night, inputs: Inputs) -> Encoded:
    """The encoder of this night, at hand or new, and the vectors of all items under it.

    A new one is due when there is none, its config changed, `refresh_days` of data have come since
    it was fitted, or it has seen events that the ranker's rows must not know.
    """
    pointer = night.workspace.cache / POINTER
    identity, why = _identity(night, inputs, pointer)
    night.reporter.say(f"encoder: {why}")
    until = int(identity["until"])
    stage = night.runner.run(
        "encoder",
        identity,
        lambda out: _fit(night, inputs, until, out),
        code=CODE,
        personal=False,
    )
    if not night.runner.dry_run:
        atomic_write(pointer, json.dumps(identity))
    return Encoded(stage, encode(night, inputs, stage), until)


def _identity(night: Night, inputs: Inputs, pointer: Path) -> tuple[dict[str, Any], str]:
    """What decides the encoder: the identity at hand while it is not due, else a new one."""
    new = {
        "until": inputs.windows.encoder_until,
        "end": inputs.windows.end,
        "items": inputs.n_items,
        "encoder": night.section("encoder"),
        "budget_minutes": night.config.budget_minutes,
        "seed": night.config.seed,
    }
    try:
        kept: dict[str, Any] = json.loads(pointer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return new, "due, there is none yet"
    if hash_json(kept["encoder"]) != hash_json(new["encoder"]):
        return new, "due, its config changed"
    if kept["until"] > inputs.windows.encoder_until:
        return new, "due, the one at hand has seen events of the ranker's windows"
    age = (inputs.windows.end - kept["end"]) / DAY
    if not 0 <= age < max(night.config.encoder.refresh_days, 1e-9):
        return new, f"due, {age:.1f} days of data since the last refresh"
    return kept, f"not due, {age:.1f} of {night.config.encoder.refresh_days:g} days of data"


def _fit(night: Night, inputs: Inputs, until: int, out: Path) -> dict[str, Any]:
    manifest = fit_encoder(
        inputs.interactions.before(until),
        inputs.texts,
        night.config.encoder,
        fit_until=until,
        out_dir=out / FOLDER,
        seed=night.config.seed,
        budget_seconds=night.budget("encoder"),
        checkpoint_dir=night.workspace.cache / "encoder-checkpoints",
        vector_cache=night.workspace.cache / "vectors",
    )
    return {"manifest": manifest}


def _champions(night: Night, registry: Registry, until: int) -> Path | None:
    """The champion's encoder, where tonight's may start from it."""
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
    return folder


def _checkpoints(night: Night, inputs: Inputs, identity: dict[str, Any]) -> Path:
    """Where a killed fit of exactly this finds its last state; those of others are removed."""
    place = night.workspace.cache / CHECKPOINTS
    name = hash_json([identity, hash_json(inputs.texts), code_version(CODE)])[:16]
    for other in place.glob("*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return place / name


def _shown(inputs: Inputs, until: int) -> Any:
    """Lists shown before a time, as the fit reads them; None without impressions."""
    from training.finetune.examples import Shown

    lists = inputs.tables.impressions
    if lists is None or not len(lists):
        return None
    last = int(np.searchsorted(lists.time, until))
    first = int(np.searchsorted(lists.offsets, lists.offsets[last] - SHOWN_AT_MOST))
    low, high = lists.offsets[first], lists.offsets[last]
    return Shown(
        lists.user[first:last],
        lists.time[first:last],
        lists.offsets[first : last + 1] - low,
        lists.item[low:high],
    )


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
            fix="install recsys[tensorboard], or set encoder.tensorboard: false",
        ) from None
    return SummaryWriter(str(night.workspace.path / "tensorboard"))


def _say_what_it_learned(night: Night, registry: Registry, stage: StageResult) -> None:
    """What tuning gave, in lines of the log and as curves of a run in MLflow."""
    learned = stage.facts["manifest"]["learned"]
    if not learned.get("fine_tuned"):
        return
    for row in learned["compared"]:
        night.reporter.say(f"encoder: {row['name']}: validation nDCG {row['ndcg']:.4f}")
    layers = learned["layers"]
    if night.config.encoder.freeze != "head" and not layers["tuned"]:
        night.reporter.warn(
            f"encoder: the language model's own layers are as they were: {layers['steps']} steps of "
            f"tuning them did not raise the validation nDCG of {layers['ndcg_before']:.4f}"
        )
    curves = {
        "encoder_loss": list(enumerate(learned["losses"], 1)),
        "encoder_valid_ndcg": [(int(v["step"]), v["ndcg"]) for v in learned["validations"]],
    }
    try:
        registry.log_curves("encoder", curves)
    except RecsysError as problem:
        night.reporter.warn(f"encoder: its curves are not in MLflow: {problem.what}")


def encode(night: Night, inputs: Inputs, encoder: StageResult, until: int) -> StageResult:
    """Vectors of all items, and the tower fitted again over them; only texts that are new or changed
    go through the model."""
    tower = _tower_identity(inputs, encoder, until)

    def action(out: Path) -> dict[str, Any]:
        with night.reporter.task("encoding items") as task:
            done = [0]

            def progress(now: int, of: int) -> None:
                task.advance(now - done[0], note=f"of {of:,}")
                done[0] = now

            vectors, counts = encode_items(
                encoder.path / FOLDER,
                inputs.texts,
                night.workspace.cache / "vectors",
                progress=progress,
                out=out / "vectors.npy",
            )
        night.reporter.say(
            f"vectors: {counts.encoded:,} texts encoded, {counts.from_cache:,} from the cache, "
            f"{counts.truncated:,} of the encoded cut to {night.config.encoder.max_tokens} tokens"
        )
        write_index(out, vectors)
        facts: dict[str, Any] = {
            "encoded": counts.encoded,
            "from_cache": counts.from_cache,
            "truncated": counts.truncated,
        }

    texts = None if night.runner.dry_run else hash_json(inputs.texts)
    return night.runner.run(
        "vectors",
        {"encoder": encoder.key, "texts": texts},
        action,
        code=CODE,
        personal=False,
    )
