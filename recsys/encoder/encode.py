"""Vectors of a catalogue's texts: only what is new is encoded, the rest comes from the cache.

Memory does not grow with the catalogue's vectors: parts of it are tokenised, encoded and stored one
after the other, and what is asked for goes from the cache into a file. While the model works on one
part, the next is tokenised.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.encoder.cache import (
    Keys,
    VectorCache,
    collect_versions,
    text_keys,
)
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.runtime import TextEncoder
from recsys.features.interactions import Floats

Progress = Callable[[int, int], None]
"""Called with (texts done, texts to do)."""

Elsewhere = Callable[[Sequence[Sequence[str]]], Iterator[tuple[Floats, int]]]
"""Texts of each part → (vectors float32 [n, d], how many were cut) of each, in their order."""

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
    out: Path | None = None,
    elsewhere: Elsewhere | None = None,
) -> tuple[Floats, EncodeCounts]:
    """Unit vectors float32 [n, d] of n texts, in their order.

    The model is opened only if something is to be encoded.

    Args:
        encoder_dir: folder of a fitted encoder.
        texts: [n] texts to encode.
        cache_dir: where finished vectors are kept under the text's hash and the encoder's version,
            so that a killed run goes on where it was and an unchanged text is never encoded twice;
            no cache when None.
        progress: called with (texts done, all).
        max_tokens: tokens of a text at most, within the encoder's own limit; that limit when None.
        out: a .npy file that the vectors are written to; they come back memory-mapped from it. In
            memory when None.
        elsewhere: encodes the parts where there is more than one, such as `EncodeElsewhere`; this
            process when None.

    Raises:
        RecsysError: the encoder's folder is incomplete or damaged.
    """
    manifest = EncoderManifest.read(encoder_dir)
    if max_tokens is not None:
        manifest = replace(manifest, max_tokens=min(max_tokens, manifest.max_tokens))
    if cache_dir is None:
        vectors, counts = _encode_uncached(encoder_dir, manifest, texts, progress)
        if out is not None:
            np.save(out, vectors)
        return vectors, counts
    cache = VectorCache(cache_dir / manifest.cache_name, manifest.dimension)
    keys = text_keys(texts)
    with cache.locked():
        rows = cache.find(keys)
        missing = _first_of_each(keys, rows)
        truncated = _fill(encoder_dir, manifest, cache, texts, missing, progress, elsewhere)
        cache.collect(keys)
        rows = cache.find(keys)
        vectors = cache.read(rows) if out is None else cache.write(rows, out)
    collect_versions(cache_dir, cache.folder)
    return vectors, EncodeCounts(len(missing), len(texts) - len(missing), truncated)


def _first_of_each(keys: Keys, rows: Places) -> Places:
    """First place of each distinct key that has no row yet."""
    unknown = np.flatnonzero(rows < 0)
    _, first = np.unique(keys[unknown], return_index=True)
    return unknown[np.sort(first)]


def _fill(
    encoder_dir: Path,
    manifest: EncoderManifest,
    cache: VectorCache,
    texts: Sequence[str],
    missing: Places,
    progress: Progress | None,
    elsewhere: Elsewhere | None,
) -> int:
    """Encode the texts at the places `missing` into the cache; returns how many were cut."""
    if not len(missing):
        return 0
    parts = _stretches(texts, missing)
    done: Iterator[tuple[Places, Floats, int]]
    if elsewhere is not None and len(parts) > 1:
        made = elsewhere([[texts[i] for i in part] for part in parts])
        done = ((part, *found) for part, found in zip(parts, made, strict=True))
    else:
        encoder = TextEncoder.open(encoder_dir, max_tokens=manifest.max_tokens)
        done = _parts(encoder, texts, parts, progress)
    truncated = 0
    for places, vectors, cut in done:
        cache.append(text_keys([texts[i] for i in places]), vectors)
        truncated += cut
    return truncated


def _stretches(texts: Sequence[str], places: Places) -> list[Places]:
    """Places of the texts that are encoded together.

    Texts of like length come together, so that a part pads little; the longest first, so that what
    does not fit into memory is known at once.
    """
    order = places[np.argsort([-len(texts[i]) for i in places], kind="stable")]
    return [order[i : i + TEXTS_AT_ONCE] for i in range(0, len(order), TEXTS_AT_ONCE)]


def _parts(
    encoder: TextEncoder, texts: Sequence[str], parts: Sequence[Places], progress: Progress | None
) -> Iterator[tuple[Places, Floats, int]]:
    """(places, their vectors, how many were cut) of one part of the texts after the other."""
    done, whole = 0, sum(len(part) for part in parts)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as ahead:
        waiting = [ahead.submit(encoder.tokenizer, [texts[i] for i in part]) for part in parts[:1]]
        for number, part in enumerate(parts):
            tokens, cut = waiting.pop().result()
            waiting += [
                ahead.submit(encoder.tokenizer, [texts[i] for i in later])
                for later in parts[number + 1 : number + 2]
            ]
            yield part, encoder.model(tokens), sum(cut)
            done += len(part)
            if progress:
                progress(done, whole)


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
    truncated = 0
    parts = _stretches(distinct, np.arange(len(distinct)))
    for rows, found, cut in _parts(encoder, distinct, parts, progress):
        vectors[rows] = found
        truncated += cut
    counts = EncodeCounts(len(distinct), len(texts) - len(distinct), truncated)
    return vectors[[place[t] for t in texts]], counts
