"""An encoder folder's manifest: which weights, how to use them, and until when they have learned.

Folder layout: Hugging Face and sentence-transformers files (config.json, model.safetensors,
tokenizer.json, modules.json, 1_Pooling/, 2_Dense/), tower.safetensors and tower.json, company.npz
where a history's items ask with what was acted on beside them, the
inference model (inference.onnx), and manifest.json.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.pretrained import read_json

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
OLDEST: Final = 1


@dataclass(frozen=True)
class EncoderManifest:
    """What readers of an encoder folder need to know."""

    version: str
    """Hash of the weights that make vectors; vectors of two versions never meet."""
    fit_until: int
    """Time of the last event the fit saw (µs UTC); -2**62 when nothing was fitted."""
    base_model: str
    base_sha256: str
    dimension: int
    pooling: str
    max_tokens: int
    template: str
    precision: str
    """Of the stored vectors and of inline text alike: the arithmetic of the inference model."""
    inference: str | None = None
    """File of the inference model; None: its vectors did not agree, torch is used."""
    agreement: dict[str, float] = field(default_factory=dict)
    """Cosine between the inference model's vectors and the tuned ones on the user's own texts."""
    truncated: int = 0
    """Texts longer than max_tokens when it was fitted."""
    unknown: int = 0
    """Texts in a language or script that the tokenizer hardly knows."""
    texts: int = 0
    learned: dict[str, Any] = field(default_factory=dict)
    """How the fit went: steps, curves, validation, seconds."""
    kinds: list[str] = field(default_factory=list)
    """Event types in the order in which the tower numbers them."""
    format: int = FORMAT

    @property
    def cache_name(self) -> str:
        """Folder name of the vectors made by this encoder."""
        return f"{self.version}-{self.pooling}-{self.precision}-{self.max_tokens}"

    def write(self, folder: Path) -> None:
        """Write manifest.json."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "EncoderManifest":
        """Read an encoder folder's manifest.

        Raises:
            RecsysError: it is missing, damaged, or of a format this version cannot read.
        """
        content = read_json(folder / MANIFEST)
        if not OLDEST <= int(content.get("format", 0)) <= FORMAT:
            raise RecsysError(
                "the encoder was written by another version of recsys",
                where=str(folder / MANIFEST),
                found=f"format {content.get('format')}",
                expected=f"format {OLDEST} to {FORMAT}",
                fix="train the encoder again, or use the version of recsys that wrote it",
            )
        known = {k: v for k, v in content.items() if k in cls.__dataclass_fields__}
        return cls(**known)
