"""Vectors of a catalogue's texts: only what is new is encoded, the rest comes from the cache."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.interactions import Floats
from recsys.encoder.cache import Keys, VectorCache, collect_versions, text_keys
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.runtime import TextEncoder

Progress = Callable[[int, int], None]
"""Called with (texts done, texts to do)."""

Places = npt.NDArray[np.int64]

TEXTS_AT_ONCE = 2048
"""Texts tokenised, sorted by length, encoded and stored together: bounds memory, and what a kill
can lose."""


class EncodeCounts(NamedTuple):
    """What an encoding did."""

    encoded: int
    """Distinct texts that went through the model."""
    from_cache: int
    """Texts whose vector was there already, duplicates within the call included."""
    truncated: int
    """Encoded texts that were cut to max_tokens."""


def encode_items(
    encoder_dir: Path,
    texts: Sequence[str],
    cache_dir: Path | None,
    *,
    progress: Progress | None = None,
    max_tokens: int | None = None,
) -> tuple[Floats, EncodeCounts]:
    """Unit vectors float32 [n, d] of n texts, in their order.

    With `cache_dir`, each finished part is stored under the text's hash and the encoder's
    version, so a killed run goes on where it was and an unchanged text is never encoded twice.
    The model is opened only if something is to be encoded.

    Raises:
        RecsysError: the encoder's folder is incomplete or damaged.
    """
    manifest = EncoderManifest.read(encoder_dir)
    if max_tokens is not None:
        manifest = replace(manifest, max_tokens=min(max_tokens, manifest.max_tokens))
    if cache_dir is None:
        return _encode_uncached(encoder_dir, manifest, texts, progress)
    cache = VectorCache(cache_dir / manifest.cache_name, manifest.dimension)
    keys = text_keys(texts)
    with cache.locked():
        rows = cache.find(keys)
        missing = _first_of_each(keys, rows)
        truncated = _fill(encoder_dir, manifest, cache, texts, missing, progress)
        cache.collect(keys)
        vectors = cache.read(cache.find(keys))
    collect_versions(cache_dir, cache.folder)
    return vectors, EncodeCounts(len(missing), len(texts) - len(missing), truncated)


def _first_of_each(keys: Keys, rows: Places) -> Places:
    """First place of each distinct key that has no row yet."""
    first: dict[bytes, int] = {}
    for place in np.flatnonzero(rows < 0):
        first.setdefault(keys[place].tobytes(), int(place))
    return np.fromiter(first.values(), np.int64, len(first))


def _fill(
    encoder_dir: Path,
    manifest: EncoderManifest,
    cache: VectorCache,
    texts: Sequence[str],
    missing: Places,
    progress: Progress | None,
) -> int:
    """Encode the texts at the places `missing` into the cache; returns how many were cut."""
    if not len(missing):
        return 0
    encoder = TextEncoder.open(encoder_dir, max_tokens=manifest.max_tokens)
    # Texts of like length together, so that a part pads little; the longest first.
    order = missing[np.argsort([-len(texts[i]) for i in missing], kind="stable")]
    truncated = 0
    for start in range(0, len(order), TEXTS_AT_ONCE):
        part = [texts[i] for i in order[start : start + TEXTS_AT_ONCE]]
        vectors, cut = encoder.encode_counted(part)
        cache.append(text_keys(part), vectors)
        truncated += cut
        if progress:
            progress(min(start + TEXTS_AT_ONCE, len(order)), len(order))
    return truncated


def _encode_uncached(
    encoder_dir: Path,
    manifest: EncoderManifest,
    texts: Sequence[str],
    progress: Progress | None,
) -> tuple[Floats, EncodeCounts]:
    encoder = TextEncoder.open(encoder_dir, max_tokens=manifest.max_tokens)
    distinct = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(distinct)}
    vectors = np.empty((len(distinct), encoder.dimension), np.float32)
    order = np.argsort([-len(t) for t in distinct], kind="stable")
    truncated = 0
    for start in range(0, len(order), TEXTS_AT_ONCE):
        rows = order[start : start + TEXTS_AT_ONCE]
        vectors[rows], cut = encoder.encode_counted([distinct[r] for r in rows])
        truncated += cut
        if progress:
            progress(min(start + TEXTS_AT_ONCE, len(order)), len(order))
    counts = EncodeCounts(len(distinct), len(texts) - len(distinct), truncated)
    return vectors[[place[t] for t in texts]], counts
