"""Text vectors of what came after the release: items posted since, and items sent inline with one request.

The release's encoder runs here and nowhere else on the ranking path, on another thread and many
texts at once; the ranking call itself only looks vectors up. Shapes: k items, d dimensions.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import RecsysError
from recsys.encoder.runtime import TextEncoder
from recsys.encoder.text import item_text
from recsys.features.interactions import Floats
from recsys.features.store import grown

KEPT: Final = 10_000
"""Texts whose vectors are kept (15 MB at 384 dimensions); beyond, the oldest go."""


class TextVectors:
    """Unit vectors of texts, each encoded once. Thread-safe; one encoding runs at a time.

    Args:
        encoder: folder of the release's encoder; None for a release without one.
        dimension: d.
        template: how an item's columns become its text.
    """

    def __init__(self, encoder: Path | None, dimension: int, template: str) -> None:
        self._folder, self.dimension, self._template = encoder, dimension, template
        self._encoder: TextEncoder | None = None
        self._vectors: dict[bytes, Floats] = {}
        """By digest: texts may be as long as the callers like."""
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self.lost = encoder is None
        """Whether there is no encoder to ask, so that new texts have no vector."""

    def text_of(self, item: Mapping[str, Any]) -> str:
        """An item's text; empty where it has none."""
        return item_text(
            self._template,
            item.get(c.TITLE) or "",
            item.get(c.TAGS) or [],
            item.get(c.CATEGORY) or "",
            item.get(c.DESCRIPTION) or "",
        )

    def get(self, text: str) -> Floats | None:
        """float32[d] of a text that was encoded; None for any other."""
        with self._lock:
            return self._vectors.get(_digest(text))

    def encode(self, texts: Iterable[str]) -> None:
        """Encode those texts that were not encoded before, together."""
        with self._turn:
            with self._lock:
                fresh = [t for t in dict.fromkeys(texts) if t and _digest(t) not in self._vectors]
            encoder = self._opened() if fresh else None
            if encoder is None:
                return
            vectors = encoder.encode(fresh)
            with self._lock:
                self._vectors.update(zip(map(_digest, fresh), vectors, strict=True))
                for oldest in list(self._vectors)[: max(0, len(self._vectors) - KEPT)]:
                    del self._vectors[oldest]

    def _opened(self) -> TextEncoder | None:
        if self._encoder is None and self._folder is not None and not self.lost:
            try:
                self._encoder = TextEncoder.open(self._folder)
            except RecsysError:
                self.lost = True
        return self._encoder


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class NewItems:
    """Vectors float32[k, d] of the k items behind the release's, in the order they came.

    A row is zero until its item's text was encoded.
    """

    def __init__(self, dimension: int) -> None:
        self._rows = np.zeros((0, dimension), np.float32)
        self._known: list[bool] = []
        self._waiting: dict[int, str] = {}
        """Place → text that was not encoded yet, in the order they came."""

    def __len__(self) -> int:
        return len(self._known)

    @property
    def rows(self) -> Floats:
        """float32[k, d]"""
        return self._rows[: len(self)]

    @property
    def waiting(self) -> list[str]:
        """Texts without a vector yet, in order."""
        return list(self._waiting.values())

    @property
    def count_waiting(self) -> int:
        """How many texts have no vector yet."""
        return len(self._waiting)

    def has(self, place: int) -> bool:
        """Whether the item at a place has a vector."""
        return self._known[place]

    def waits(self, place: int) -> bool:
        """Whether the item's text was not encoded yet."""
        return place in self._waiting

    def append(self, text: str) -> None:
        """One more item, without a vector yet; one without text never gets one."""
        place = len(self)
        self._known.append(False)
        self._rows = grown(self._rows, place + 1)
        self._rows[place] = 0.0
        self.retell(place, text)

    def retell(self, place: int, text: str) -> None:
        """An item's text changed; its old vector stands until the new text is encoded."""
        if text:
            self._waiting[place] = text

    def cut(self, size: int) -> None:
        """Drop the items at or beyond `size`."""
        for place in range(size, len(self)):
            self._waiting.pop(place, None)
        del self._known[size:]

    def take(self, vectors: TextVectors) -> bool:
        """Give waiting items their vectors where they are encoded by now; whether any came."""
        came = {p: v for p, text in self._waiting.items() if (v := vectors.get(text)) is not None}
        for place, vector in came.items():
            del self._waiting[place]
            self._rows[place] = vector
            self._known[place] = True
        return bool(came)
