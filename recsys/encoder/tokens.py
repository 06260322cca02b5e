"""Texts to token ids, with the model's own fast tokenizer and without transformers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.encoder.source import CONFIG, open_tokenizer, read_json

CHARACTERS_PER_TOKEN = 16
"""No text needs more characters than this to fill a token (assumed; generous for any script)."""


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

    def unknown_texts(self, tokens: Sequence[Sequence[int]]) -> int:
        """Texts of whose tokens the model does not know the half: another language or script."""
        if self.unknown is None:
            return 0
        return sum(
            2 * sum(t == self.unknown for t in ids) > max(len(ids) - 2, 0) for ids in tokens if ids
        )
