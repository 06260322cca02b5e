"""Texts to token ids, with the model's own fast tokenizer and without transformers."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from recsys.encoder.pretrained import CONFIG, open_tokenizer, read_json
from recsys.features.interactions import Ints, Longs
from recsys.features.ragged import Ragged, offsets_of

CHARACTERS_PER_TOKEN = 16
"""No text needs more characters than this to fill a token (assumed; generous for any script)."""


TEXTS_AT_ONCE = 4096
"""Texts tokenised together: their Python lists of ids are a hundred times larger than arrays."""


@dataclass(frozen=True)
class Tokens(Ragged, Sequence[Ints]):
    """Token ids of n texts in one array: text i's are flat[offsets[i]:offsets[i+1]]."""

    flat: Ints
    offsets: Longs
    row_columns: ClassVar = ("flat",)

    @classmethod
    def of(cls, parts: Sequence[Sequence[int]]) -> Self:
        """From a sequence of ids per text."""
        offsets = offsets_of(np.fromiter(map(len, parts), np.int64, len(parts)))
        flat = np.fromiter((t for part in parts for t in part), np.int32, int(offsets[-1]))
        return cls(flat, offsets)

    def __getitem__(self, place: Any) -> Any:
        """Ids int32 [L] of one text."""
        low, high = self.offsets[place], self.offsets[place + 1]
        return self.flat[low:high]

    def __iter__(self) -> Iterator[Ints]:
        return (self[i] for i in range(len(self)))

    def cut(self, most: int) -> Self:
        """The same texts with at most so many tokens each; the last token, which ends a text, stays."""
        place = self.place
        last = place == self.lengths[self.owner] - 1
        kept = (place < most - 1) | last
        return self.keeping(kept)


@dataclass(frozen=True)
class TextTokenizer:
    """Cuts texts to `max_tokens` tokens and says which were longer."""

    tokenizer: Any
    pad: int
    unknown: int | None
    max_tokens: int

    @classmethod
    def open(cls, folder: Path, max_tokens: int) -> "TextTokenizer":
        """The tokenizer of a checked model folder."""
        tokenizer = open_tokenizer(folder)
        config = read_json(folder / CONFIG)
        limit = int(config.get("max_position_embeddings", max_tokens))
        if config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
            limit -= 2  # their positions start behind the padding index
        max_tokens = min(max_tokens, limit)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        unknown = json.loads(tokenizer.to_str())["model"].get("unk_token")
        return cls(
            tokenizer,
            int(config.get("pad_token_id") or 0),
            tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None,
            max_tokens,
        )

    def __call__(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each text, and whether it was cut."""
        limit = self.max_tokens * CHARACTERS_PER_TOKEN
        encodings = self.tokenizer.encode_batch_fast([text[:limit] for text in texts])
        cut = [
            bool(e.overflowing) or len(text) > limit
            for e, text in zip(encodings, texts, strict=True)
        ]
        return [e.ids for e in encodings], cut

    def all_of(self, texts: Sequence[str]) -> tuple[Tokens, int]:
        """Token ids of a whole catalogue, and how many of its texts were cut."""
        parts, cut = [Tokens.of([])], 0
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            ids, long = self(texts[start : start + TEXTS_AT_ONCE])
            parts.append(Tokens.of(ids))
            cut += sum(long)
        return Tokens.join(parts), cut

    def unknown_texts(self, tokens: Tokens) -> int:
        """Texts of whose tokens the model does not know the half: another language or script."""
        if self.unknown is None:
            return 0
        foreign = tokens.keeping(tokens.flat == self.unknown).lengths
        return int(((tokens.lengths > 0) & (2 * foreign > np.maximum(tokens.lengths - 2, 0))).sum())


TOKENS_AT_ONCE = 1024
"""Rows × longest length of one call of the model: bounds memory, and its activations stay in the cache
(measured beside other work: 4,096 takes 1.17 times the processor time, 512 the same)."""


def batches_by_length(lengths: npt.NDArray[np.integer], budget: int) -> list[npt.NDArray[Any]]:
    """Rows grouped so that rows × longest length stays within `budget` tokens, longest first.

    Longest first, so that what does not fit into memory is known at the first batch.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        step = max(1, budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + step])
        start += step
    return batches


def pad_tokens(
    tokens: Sequence[Sequence[int]], pad: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rectangular (ids, mask), both int64 [B, L], of B token sequences."""
    width = max(map(len, tokens), default=0)
    ids = np.full((len(tokens), width), pad, np.int64)
    mask = np.zeros((len(tokens), width), np.int64)
    for row, sequence in enumerate(tokens):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
