"""`recsys models export-encoder`: the tuned encoder of a version as a folder that others load."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.encoder.manifest import EncoderManifest
from recsys.storage.bundle import open_bundle
from recsys.storage.files import atomic_folder

CARD: Final = "README.md"
OURS: Final = ("tower.safetensors", "tower.json", "company.npz", "check.npz", "manifest.json")
"""Files of the encoder's folder that only this package reads."""


def export_encoder(bundle_dir: Path, target: Path, name: str) -> Path:
    """Write the encoder of a bundle, with a model card, in the layout of sentence-transformers.

    Args:
        bundle_dir: folder of a bundle.
        target: folder to make.
        name: of the model and version, for the card.

    Raises:
        UsageError: the folder holds something already.
        RecsysError: the bundle has no encoder.
    """
    source = open_bundle(bundle_dir).encoder
    if source is None:
        raise RecsysError("this version has no encoder", where=name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            "the output is not a new folder",
            where="--to",
            found=str(target),
            expected="a new folder",
        )
    manifest = EncoderManifest.read(source)
    with atomic_folder(target, "the encoder") as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*OURS))
        (aside / CARD).write_text(model_card(manifest, name), encoding="utf-8")
    return target


def model_card(manifest: EncoderManifest, name: str) -> str:
    """What a reader of the folder must know, with the front matter that model hubs read."""
    base = Path(manifest.base_model).name
    tuned = bool(manifest.learned.get("fine_tuned", manifest.fit_until > 0))
    until = (
        f"{datetime.fromtimestamp(manifest.fit_until / 1e6, UTC):%Y-%m-%d}"
        if manifest.fit_until > 0
        else "no event"
    )
    learned = (
        f"It was fine-tuned on what people did next, on events before {until}: of two texts, the one "
        "whose item a person with this history acted on is to be nearer."
        if tuned
        else "It was not fine-tuned: these are the weights of the base model."
    )
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
base_model: {base}
tags: [recsys, recommendation]
---

# Encoder of {name}

Turns the text of an item into a vector of {manifest.dimension} numbers. {learned}

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
vectors = model.encode(["a title"], normalize_embeddings=True)
```

| | |
|---|---|
| base model | {base} |
| text of an item | `{manifest.template}` |
| tokens at most | {manifest.max_tokens} |
| pooling | {manifest.pooling} |
| learned from events before | {until} |
| texts of the catalogue | {manifest.texts:,}, {manifest.truncated:,} of them cut |
| event types | {", ".join(manifest.kinds) or "none"} |

Two items are alike as their vectors' cosine is large. A user is no text: the weights that read a history
stay with the recommender. Texts in a language that the base model does not know are encoded badly
({manifest.unknown:,} of the catalogue's). It has seen no personal data but through what was acted on
together; its licence is the base model's.
"""
