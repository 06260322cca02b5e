"""When the encoder is due, and the one in use: tonight's new one, or the one at hand.

Between two refreshes the encoder's weights and the vectors stay; the user tower is fitted again over
them each night, and kept where it is better.
"""

import json
from functools import partial
from typing import Any

from recsys.features.interactions import DAY
from recsys.storage.files import atomic_write, hash_json
from recsys.training.night import encoder_age, item_vectors, tune_encoder
from recsys.training.night.hidden_items import untaught_share
from recsys.training.night.night_context import Night
from recsys.training.night.products import Encoded

MORE_EVENTS = 0.1
"""Growth of the events after which an encoder is due where timestamps carry order only, so that days
since the last refresh cannot be counted (assumed)."""


def refresh(night: Night) -> Encoded:
    """The encoder of this night, at hand or new, and the vectors of all items under it.

    A new one is due when there is none, its config changed, `refresh_days` of data have come since
    it was fitted, it has seen events that the ranker's rows must not know, or what it says has
    become clearly worse (see `recsys.training.night.encoder_age`). It starts from the champion's weights.
    """
    new = _new_identity(night)
    kept, why = _kept_identity(night, new)
    night.reporter.say(f"encoder: {why}")
    if kept is None:
        return _renewed(night, new)
    encoded = _encoded(night, kept)
    if night.runner.dry_run:
        return encoded
    degraded = encoder_age.measure(night, encoded)
    if degraded is None or hash_json(kept) == hash_json(new):
        return encoded
    night.reporter.say(f"encoder: due after all, {degraded}")
    return _renewed(night, new)


def _renewed(night: Night, identity: dict[str, Any]) -> Encoded:
    """A new encoder, remembered as the one at hand."""
    encoded = _encoded(night, identity)
    if not night.runner.dry_run:
        atomic_write(night.workspace.encoder, json.dumps(identity))
        encoder_age.measure(night, encoded)
    return encoded


def _encoded(night: Night, identity: dict[str, Any]) -> Encoded:
    """The encoder of an identity, and all vectors under it."""
    until = int(identity["until"])
    stage = tune_encoder.tuned(night, identity)
    encode = partial(item_vectors.encode, night, encoder=stage, until=until)
    return Encoded(stage, encode(night.data), until, encode)


def _new_identity(night: Night) -> dict[str, Any]:
    """What decides an encoder fitted tonight."""
    inputs = night.data
    until = inputs.windows.encoder_until
    return {
        "until": until,
        "end": inputs.windows.end,
        "items": inputs.n_items,
        "events": int((inputs.interactions.time < until).sum()),
        "untaught": round(untaught_share(inputs), 4),
        "encoder": night.section("encoder"),
        "budget_minutes": night.config.budget_minutes,
        "seed": night.config.seed,
    }


def _kept_identity(night: Night, new: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The identity of the encoder at hand, None where a new one is due; and why."""
    windows = night.data.windows
    try:
        kept: dict[str, Any] = json.loads(night.workspace.encoder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, "due, there is none yet"
    if hash_json(kept["encoder"]) != hash_json(new["encoder"]):
        return None, "due, its config changed"
    if kept["until"] > windows.encoder_until:
        return None, "due, the one at hand has seen events of the ranker's windows"
    days = night.config.encoder.refresh_days
    age = (windows.end - kept["end"]) / DAY
    if not 0 <= age < max(days, 1e-9):
        return None, f"due, {age:.1f} days of data since the last refresh"
    if windows.scheme == "ordinal":
        more = new["events"] / max(kept.get("events", 0), 1) - 1
        if more >= MORE_EVENTS:
            return None, f"due, {more:.0%} more events (timestamps carry order only)"
        return kept, f"not due, {max(more, 0):.0%} of {MORE_EVENTS:.0%} more events"
    return kept, f"not due, {age:.1f} of {days:g} days of data"


def _fit(
    night: Night, inputs: Inputs, registry: Registry, identity: dict[str, Any], out: Path
) -> dict[str, Any]:
    from recsys.training.finetune.fit import fit_encoder

    until = int(identity["until"])
    previous = _champions(night, registry, until)
    if previous is not None:
        night.reporter.say("encoder: starts from the champion's weights, and beside it afresh")
    config = night.config.encoder
    with _watched(night) as (on_metrics, progress):
        fit = partial(
            fit_encoder,
            _to_learn_from(inputs, until),
            inputs.texts,
            fit_until=until,
            out_dir=out / FOLDER,
            seed=night.config.seed,
            budget_seconds=night.budget("encoder"),
            shown=_shown(inputs, until),
            previous=previous,
            checkpoint_dir=_checkpoints(night, inputs, identity),
            vector_cache=night.workspace.vectors,
            on_metrics=on_metrics,
            progress=progress,
        )
        try:
            manifest = fit(config=config)
        except TooLittle as problem:
            night.alarm(
                f"the encoder is used as it came: {problem.found}, {problem.expected} are needed to "
                "tune it"
            )
            manifest = fit(config=config.model_copy(update={"fine_tune": False}))
    return {"manifest": manifest}


def _to_learn_from(inputs: Inputs, until: int) -> Interactions:
    """Events before a time, without those on the items that a night treats as new."""
    events = inputs.interactions.before(until)
    return events.where(~_untaught(inputs)[events.item])


def _untaught(inputs: Inputs) -> npt.NDArray[np.bool_]:
    return hidden(inputs, untaught_share(inputs))


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
    place = night.workspace.encoder_checkpoints
    name = hash_json([identity, hash_json(inputs.texts), code_version(CODE)])[:16]
    for other in place.glob("*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return place / name


def _shown(inputs: Inputs, until: int) -> Impressions | None:
    """Lists shown before a time, as the fit reads them; None without impressions."""
    lists = inputs.tables.impressions
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


def _say_what_it_learned(night: Night, registry: Registry, stage: StageResult) -> None:
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
    layers = learned["layers"]
    if night.config.encoder.freeze != "head" and not layers["tuned"]:
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
        registry.log_curves("encoder", curves)
    except RecsysError as problem:
        night.reporter.warn(f"encoder: its curves are not in MLflow: {problem.what}")


def encode(night: Night, inputs: Inputs, encoder: StageResult, until: int) -> StageResult:
    """Vectors of all items, and the tower fitted again over them; only texts that are new or changed
    go through the model."""
    tower = _tower_identity(inputs, encoder, until)

    def action(out: Path) -> dict[str, Any]:
        with night.reporter.task("encoding items") as task:
            vectors, counts = encode_items(
                encoder.path / FOLDER,
                inputs.texts,
                night.workspace.vectors,
                progress=task.reach,
                out=out / "vectors.npy",
            )
        if not np.isfinite(vectors.sum(dtype=np.float64)):
            raise RecsysError(
                "the encoder gives vectors that are not numbers",
                where=str(encoder.path / FOLDER),
                expected="finite numbers",
                fix="lower encoder.learning_rate, or name another encoder.model, and run it again",
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
        if tower is not None:
            facts["tower"] = _follow(night, inputs, encoder.path / FOLDER, out, until)
        return facts

    return night.runner.run(
        "vectors",
        {"encoder": encoder.key, "texts": inputs.texts_key}
        | ({} if tower is None else {"tower": tower}),
        action,
        code=CODE,
        personal=False,
    )


def _tower_identity(inputs: Inputs, encoder: StageResult, until: int) -> dict[str, Any] | None:
    """What decides tonight's tower; None where the encoder's own is as new and as wide."""
    manifest = encoder.facts.get("manifest", {})
    now, kinds = inputs.windows.encoder_until, list(inputs.interactions.kinds)
    tuned = manifest.get("learned", {}).get("fine_tuned", False)
    if (now <= until or not tuned) and kinds == manifest.get("kinds", kinds):
        return None
    return {"until": now, "kinds": kinds, "known": inputs.key_before(now)}


def _follow(night: Night, inputs: Inputs, encoder: Path, out: Path, until: int) -> dict[str, Any]:
    """Write the encoder with tonight's tower into `out`: its event types in tonight's numbering, and
    fitted to the events that have come since, where that is better."""
    from recsys.training.finetune.refit import refit_tower

    manifest = EncoderManifest.read(encoder)
    config, now = night.config.encoder, inputs.windows.encoder_until
    tower = Tower.load(encoder).aligned(
        manifest.kinds, inputs.interactions.kinds, config.history_length
    )
    facts: dict[str, Any] = {"until": until, "kept": False}
    if now > until and manifest.learned.get("fine_tuned"):
        found = refit_tower(
            _to_learn_from(inputs, now),
            np.load(out / "vectors.npy", mmap_mode="c"),
            config,
            tower,
            fit_until=now,
            since=until,
            seed=night.config.seed,
            seconds=night.budget("encoder") * TOWER_SHARE,
            shown=_shown(inputs, now),
        )
        tower = found.tower
        facts = {
            "until": now if found.kept else until,
            "kept": found.kept,
            "ndcg_before": found.before,
            "ndcg_after": found.after,
            "steps": found.steps,
        }
        verdict = "kept" if found.kept else "not better, the one before stays"
        night.reporter.say(
            f"user tower: fitted again over the same vectors, validation nDCG {found.before:.4f} → "
            f"{found.after:.4f}, {verdict}"
        )
    link_tree(encoder, out / FOLDER)
    # The files are the encoder's own, linked: they are replaced, never written into.
    for name in (TOWER, TOWER_JSON, "manifest.json"):
        (out / FOLDER / name).unlink()
    tower.save(out / FOLDER)
    replace(manifest, fit_until=facts["until"], kinds=list(inputs.interactions.kinds)).write(
        out / FOLDER
    )
    return facts
