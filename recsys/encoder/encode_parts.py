"""Encoding on an engine: each part of the texts by one task, on a GPU of its own where the engine gives one.

A part is what a single process encodes together, so its vectors are the same bytes wherever it is
encoded, on processors of one kind. What is finished lies in scratch until all parts are: a run that was
killed goes on with the rest.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from recsys.encoder.cache import text_keys
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.runtime import TextEncoder
from recsys.features.interactions import Floats
from recsys.storage.engines import Engine
from recsys.storage.engines.engine import GPUS
from recsys.storage.node_copies import PublishedFolder, local_folder
from recsys.storage.scratch import ScratchFolder

FOLDER: Final = "encoding"
"""Of scratch: unfinished encodings by what they encode."""
TEXT: Final = "text"


@dataclass(frozen=True)
class EncodeElsewhere:
    """Encodes parts of texts on an engine."""

    engine: Engine
    scratch: ScratchFolder
    encoder_dir: Path
    max_tokens: int

    def __call__(self, parts: Sequence[Sequence[str]]) -> Iterator[tuple[Floats, int]]:
        """(vectors float32 [n, d], how many texts were cut) of each part, in their order.

        Raises:
            RecsysError: a part's own, or what became of the engine; finished parts are kept.
        """
        manifest = EncoderManifest.read(self.encoder_dir)
        unfinished = self.scratch.below(FOLDER)
        unfinished.remove_stale()
        digest = hashlib.sha256(f"{manifest.cache_name} {self.max_tokens}".encode())
        for part in parts:
            digest.update(text_keys(part).tobytes() + b"|")
        asked = unfinished.below(digest.hexdigest()[:32])
        done = asked.names()
        for number, part in enumerate(parts):
            if _texts(number) not in done:
                asked.write_table(_texts(number), pa.table({TEXT: pa.array(part, pa.string())}))
        todo = [number for number in range(len(parts)) if _vectors(number) not in done]
        encoder: Path | PublishedFolder = self.encoder_dir
        if todo and not self.engine.shares_disk:
            encoder = PublishedFolder.publish(
                self.encoder_dir, asked.below("encoder"), f"encoder-{manifest.version}"
            )
        for _ in self.engine.each_part(PartOfTexts(encoder, self.max_tokens, asked), todo):
            pass
        for number in range(len(parts)):
            table = asked.table(_vectors(number))
            flat = table["vector"].combine_chunks().flatten().to_numpy()
            yield flat.reshape(table.num_rows, manifest.dimension), int(table["cut"][0].as_py())
        asked.remove()


@dataclass(frozen=True)
class PartOfTexts:
    """The vectors of one part, from its texts in scratch into a file beside them."""

    encoder: Path | PublishedFolder
    max_tokens: int
    scratch: ScratchFolder

    def __call__(self, part: int) -> dict[str, Any]:
        texts = self.scratch.table(_texts(part))[TEXT].to_pylist()
        vectors, cut = self._opened().encode_counted(texts)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        cuts = pa.array(np.full(len(texts), cut, np.int64))
        self.scratch.write_table(_vectors(part), pa.table({"vector": rows, "cut": cuts}))
        return {"texts": len(texts)}

    def _opened(self) -> TextEncoder:
        key = (self.encoder, self.max_tokens)
        if key not in _open:
            if os.environ.get(GPUS):
                # The engine gave this task a GPU: the encoder takes it where PyTorch is loaded.
                import torch  # noqa: F401
            _open.clear()
            _open[key] = TextEncoder.open(local_folder(self.encoder), max_tokens=self.max_tokens)
        return _open[key]


_open: dict[tuple[Path | PublishedFolder, int], TextEncoder] = {}
"""The encoder as this process has opened it."""


def _texts(part: int) -> str:
    return f"texts-{part:06d}.parquet"


def _vectors(part: int) -> str:
    return f"vectors-{part:06d}.parquet"
