"""What a fit of the encoder reads, as a folder: so that it can run apart from the workspace.

    inputs.json      settings, time, seed, budget, event types, number of items; the identity
    events.parquet   the columns of `Interactions`, in their order
    users.parquet    ids of the users, whose hash draws the validation users
    texts.parquet    text of each item of the vocabulary
    shown.parquet    optional: a row per shown list (time, user, position, items)
    previous/        optional: the encoder folder of the warm start

The fit is a function of this folder alone, in one process or in several under torchrun, and leaves
`encoder/` and `fit.json` (the manifest, and the identity that the night knows the encoder by).
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import EncoderConfig
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.encoder.manifest import EncoderManifest
from recsys.features.impressions import Impressions
from recsys.features.interactions import EVENT_COLUMNS, Interactions
from recsys.features.packed_strings import PackedStrings
from recsys.features.ragged import list_column
from recsys.storage.files import atomic_folder, hash_json, link_tree, write_json
from recsys.training.finetune.distributed import Group
from recsys.training.finetune.examples import TooLittle
from recsys.training.finetune.fit import encoder_version, fit_encoder

log = logging.getLogger(__name__)

INPUTS, FIT, ENCODER, CHECKPOINTS = "inputs.json", "fit.json", "encoder", "checkpoints"
PREVIOUS, SHOWN, TEXT = "previous", "shown.parquet", "text"
VERSION: Final = 1
UNTUNED: Final = "the encoder is used as it came: {}, {} are needed to tune it"


@dataclass(frozen=True)
class FitInputs:
    """Everything that decides a fit of the encoder."""

    interactions: Interactions
    """Events up to `fit_until`, without those on items that a night keeps away."""
    texts: Sequence[str]
    """Text of each item of the vocabulary."""
    config: EncoderConfig
    fit_until: int
    """µs UTC."""
    seed: int
    budget_seconds: float | None
    shown: Impressions | None
    previous: Path | None
    """Encoder folder of an earlier fit."""
    identity: dict[str, Any]
    """What the night knows the encoder by; handed through."""

    def write(self, folder: Path) -> None:
        """Into a folder that is new, empty or of an earlier call.

        Raises:
            UsageError: something else lies there.
        """
        if folder.exists() and not (folder / INPUTS).is_file() and any(folder.iterdir()):
            raise _taken(folder, "inputs of an earlier call")
        events = self.interactions
        with atomic_folder(folder) as aside:
            columns = {name: pa.array(getattr(events, name)) for name in EVENT_COLUMNS}
            pq.write_table(pa.table(columns), aside / "events.parquet")
            ids = events.user_ids.arrow()
            pq.write_table(pa.table({c.USER_ID: ids}), aside / "users.parquet")
            pq.write_table(
                pa.table({TEXT: PackedStrings.of(self.texts).arrow()}), aside / "texts.parquet"
            )
            if self.shown is not None:
                pq.write_table(_table_of(self.shown), aside / SHOWN)
            if self.previous is not None:
                link_tree(self.previous, aside / PREVIOUS)
            write_json(
                aside / INPUTS,
                {
                    "version": VERSION,
                    "encoder": self.config.model_dump(mode="json"),
                    "fit_until": self.fit_until,
                    "seed": self.seed,
                    "budget_seconds": self.budget_seconds,
                    "kinds": list(events.kinds),
                    "items": events.n_items,
                    "identity": self.identity,
                },
            )

    @classmethod
    def read(cls, folder: Path) -> "FitInputs":
        """What `write` left.

        Raises:
            UsageError: the folder holds no inputs, or those of another version.
            RecsysError: a file of it is gone or damaged.
        """
        try:
            settings = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                "there are no inputs of a fit here",
                where=str(folder),
                found=error,
                expected=f"a folder with {INPUTS}",
                fix="write it with `recsys train encoder --inputs-only DIR`",
            ) from None
        if settings["version"] != VERSION:
            raise UsageError(
                "the inputs were written by another version of this package",
                where=str(folder / INPUTS),
                found=f"version {settings['version']}",
                expected=f"version {VERSION}",
                fix="write them again with `recsys train encoder --inputs-only DIR`",
            )
        shown = folder / SHOWN
        previous = folder / PREVIOUS
        try:
            events = pq.read_table(folder / "events.parquet")
            users = pq.read_table(folder / "users.parquet")[c.USER_ID]
            texts = pq.read_table(folder / "texts.parquet")[TEXT]
            lists = _impressions_of(pq.read_table(shown)) if shown.exists() else None
            columns = {name: events[name].to_numpy() for name in EVENT_COLUMNS}
        except (OSError, KeyError, pa.ArrowException) as error:
            raise RecsysError(
                "the inputs of the fit are damaged",
                where=str(folder),
                found=error,
                expected="the files that were written there",
                fix="write them again with `recsys train encoder --inputs-only DIR`",
            ) from None
        return cls(
            Interactions(
                **columns,
                user_ids=PackedStrings.of(users),
                kinds=tuple(settings["kinds"]),
                n_items=settings["items"],
            ),
            PackedStrings.of(texts),
            EncoderConfig.model_validate(settings["encoder"]),
            settings["fit_until"],
            settings["seed"],
            settings["budget_seconds"],
            lists,
            previous if previous.is_dir() else None,
            settings["identity"],
        )

    def fit(
        self,
        out_dir: Path,
        *,
        on_untuned: Callable[[str], object] = log.warning,
        **watched: Any,
    ) -> dict[str, Any]:
        """Fit, and write the encoder folder `out_dir`; where there is too little to learn from, the
        base model as it is.

        Args:
            out_dir: see `fit_encoder`.
            on_untuned: told why nothing was tuned.
            watched: further arguments of `fit_encoder` (checkpoints, cache, callbacks).

        Returns:
            the manifest as a dict; in further processes of torchrun what was learned.
        """

        def run(config: EncoderConfig) -> dict[str, Any]:
            return fit_encoder(
                self.interactions,
                self.texts,
                config,
                fit_until=self.fit_until,
                out_dir=out_dir,
                seed=self.seed,
                budget_seconds=self.budget_seconds,
                shown=self.shown,
                previous=self.previous,
                **watched,
            )

        try:
            return run(self.config)
        except TooLittle as problem:
            on_untuned(UNTUNED.format(problem.found, problem.expected))
            return run(self.config.model_copy(update={"fine_tune": False}))

    def fit_into(self, out: Path, **watched: Any) -> dict[str, Any] | None:
        """Fit into a folder that `FittedEncoder` reads; a killed fit goes on from its last state.

        Returns:
            the manifest; None in further processes of torchrun.
        """
        out.mkdir(parents=True, exist_ok=True)
        if {f.name for f in out.iterdir()} - {FIT, ENCODER, f"{ENCODER}.new", CHECKPOINTS}:
            raise _taken(out, "what an earlier fit left")
        (out / FIT).unlink(missing_ok=True)
        checkpoints = out / CHECKPOINTS / hash_json([self.identity, self.fit_until])[:16]
        manifest = self.fit(out / ENCODER, checkpoint_dir=checkpoints, **watched)
        if not Group().first:
            return None
        write_json(out / FIT, {"manifest": manifest, "identity": self.identity})
        return manifest


@dataclass(frozen=True)
class FittedEncoder:
    """What a fit apart from the workspace left."""

    folder: Path
    """The encoder folder."""
    manifest: dict[str, Any]
    identity: dict[str, Any]

    @classmethod
    def read(cls, out: Path) -> "FittedEncoder":
        """Raises:
        UsageError: no fit has ended here.
        RecsysError: the encoder is damaged.
        """
        try:
            told = json.loads((out / FIT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                "no fit of the encoder has ended here",
                where=str(out),
                found=error,
                expected=f"a folder with {FIT} and {ENCODER}/",
                fix="fit it with `recsys fit-encoder --inputs DIR --out DIR`",
            ) from None
        folder = out / ENCODER
        found = EncoderManifest.read(folder).version
        try:
            weights = encoder_version(folder)
        except OSError as error:
            weights = str(error)
        if not found == told["manifest"]["version"] == weights:
            raise RecsysError(
                "the encoder is not the one that was fitted here",
                where=str(folder),
                found=weights,
                expected=told["manifest"]["version"],
                fix="copy the folder again, or fit it again",
            )
        return cls(folder, told["manifest"], told["identity"])


def _taken(folder: Path, ours: str) -> UsageError:
    """The message for a folder in which something else lies."""
    return UsageError(
        "this folder holds something else",
        where=str(folder),
        expected=f"a new or empty folder, or {ours}",
        fix="name another folder",
    )


def _table_of(shown: Impressions) -> pa.Table:
    items = pa.LargeListArray.from_arrays(
        pa.array(shown.offsets, pa.int64()), pa.array(shown.items, pa.int32())
    )
    columns = {"time": shown.time, "user": shown.user, "position": shown.position}
    return pa.table({name: pa.array(column) for name, column in columns.items()} | {"items": items})


def _impressions_of(table: pa.Table) -> Impressions:
    offsets, items = list_column(table["items"])
    return Impressions.of(
        offsets,
        items.to_numpy().astype(np.int32),
        table["time"].to_numpy(),
        user=table["user"].to_numpy(),
        position=table["position"].to_numpy(),
    )
