"""One release in one folder: everything a ranking needs, with a checksum for every file.

    manifest.json                format version, parts with SHA-256 per file, fit_until per part, …
    encoder/                     Hugging Face layout, tower.safetensors, the exported CPU model
    items/                       ids, vectors.npy, lists/ (their index, for many items), catalogue/
                                 (texts and attributes), searched.npy where lists are made of some only
    sources/<name>/              arrays of each score source
    ranker/                      trees as text, the linear start
    features.json                the feature set's declaration

No personal data: users' histories live in the tables, the log and the state, never here. All item
arrays are a prefix of the workspace's append-only item vocabulary.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from recsys import __version__
from recsys.data_schemas.addresses import redact
from recsys.data_schemas.errors import RecsysError
from recsys.storage.files import (
    atomic_folder,
    files_below,
    hash_file,
    hash_json,
    plain,
    write_json,
)

FORMAT: Final = 1
OLDEST_READABLE: Final = 1
"""Oldest format this code still opens."""
READABLE_FROM: Final = 1
"""Oldest reader that understands what this code writes."""
MANIFEST: Final = "manifest.json"
FEATURES: Final = "features.json"
ENCODER, ITEMS, SOURCES, RANKER = "encoder", "items", "sources", "ranker"
SEARCHED: Final = "searched.npy"
NEVER_FITTED: Final = -(2**62)

Vectors = npt.NDArray[np.float32]


class BundleRefused(RecsysError):
    """A bundle that must not be used (exit code 1)."""


class Saves(Protocol):
    """A part that writes itself into an existing empty folder."""

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; arrays are memory-mapped on demand."""

    path: Path
    manifest: Mapping[str, Any]
    digest: str
    """SHA-256 of manifest.json, which holds the checksums of everything else."""

    @property
    def encoder(self) -> Path | None:
        """The encoder's folder, when the release has one."""
        folder = self.path / ENCODER
        return folder if folder.is_dir() else None

    @property
    def ranker(self) -> Path:
        return self.path / RANKER

    @property
    def catalogue(self) -> Path | None:
        """Folder of item texts and attributes."""
        folder = self.path / ITEMS / "catalogue"
        return folder if folder.is_dir() else None

    @property
    def items(self) -> Path:
        return self.path / ITEMS

    @property
    def sources(self) -> dict[str, Path]:
        """Folder of each score source, in the order they were given."""
        return {name: self.path / SOURCES / name for name in self.manifest["sources"]}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the night wrote down: config, windows, stage keys, metrics."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts

    @property
    def fit_until(self) -> Mapping[str, int]:
        """Part → time of the last event its fit saw (µs)."""
        times: Mapping[str, int] = self.manifest["fit_until"]
        return times

    @property
    def n_items(self) -> int:
        return int(self.manifest["n_items"])

    @cached_property
    def features(self) -> dict[str, Any]:
        declared: dict[str, Any] = json.loads((self.path / FEATURES).read_text(encoding="utf-8"))
        return declared

    @cached_property
    def item_ids(self) -> list[str]:
        """Item ids in vocabulary order."""
        folder = self.path / ITEMS
        return _read_strings(folder, "ids")

    def searched(self) -> npt.NDArray[np.uint8] | None:
        """uint8[N]: 1 for items that lists are made of, memory-mapped; None where they are made of all."""
        file = self.path / ITEMS / SEARCHED
        return np.load(file, mmap_mode="r") if file.exists() else None

    def vectors(self) -> Vectors | None:
        """float32[n_items, d], memory-mapped; None without an encoder."""
        file = self.path / ITEMS / "vectors.npy"
        # A plain view: numpy's memmap class costs a Python call on every slice.
        return np.asarray(np.load(file, mmap_mode="r")) if file.exists() else None


def write_bundle(
    out_dir: Path | str,
    *,
    encoder: Path | None,
    items: Mapping[str, Any],
    sources: Mapping[str, Saves],
    ranker: Saves,
    features_json: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Path:
    """Write a release; the folder appears whole or not at all.

    Args:
        out_dir: folder of the bundle; one that is there is replaced.
        encoder: folder to copy, or None.
        items: `ids` (list of str), `vectors` (float32[n, d] or None), `index` (folder of their
            search index, or None), `catalogue` (folder or None), `texts` (list of str or None).
        sources: each saves itself under its name; its `fit_until` enters the manifest.
        ranker: saves itself; its `fit_until`, when it has one, enters the manifest.
        features_json: declarations of the features, as `FeatureSet.to_json` gives them.
        facts: anything JSON-able; `precision`, `data_window`, `config` and `code_version` are
            raised to the manifest's top.

    The same parts give the same bytes and so the same digest: no clock enters.
    """
    target = Path(out_dir)
    with atomic_folder(target, "a bundle") as folder:
        if encoder is not None:
            shutil.copytree(encoder, folder / ENCODER)
        _write_items(folder / ITEMS, items)
        for name, source in sources.items():
            _save_part(source, folder / SOURCES / name)
        _save_part(ranker, folder / RANKER)
        write_json(folder / FEATURES, features_json)
        times = {
            name: int(getattr(source, "fit_until", NEVER_FITTED))
            for name, source in sources.items()
        }
        times |= _other_times(folder, ranker)
        manifest = _manifest(folder, list(sources), items, times, features_json, facts)
        write_json(folder / MANIFEST, manifest)
    return target


def open_bundle(path: Path | str, verify: bool = True, *, afresh: bool = False) -> Bundle:
    """Open a release, refusing one that is not exactly what was written.

    Sizes and names are always checked, checksums with `verify`. In a folder named by its digest
    (a local copy) each file is hashed once: what was verified is noted beside the folder, and not
    believed with `afresh`.

    Raises:
        BundleRefused: a part is missing, truncated, changed or unknown, or the format is newer.
    """
    folder = Path(path)
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleRefused(
            "this is not a bundle", where=str(folder), expected=f"a folder with {MANIFEST}"
        ) from None
    except (ValueError, OSError) as error:
        raise _damaged(file, str(error), "a readable manifest") from None
    _check_format(manifest, file)
    _check_parts(folder, manifest, verify, afresh)
    return Bundle(folder, manifest, hash_file(file))


def _check_format(manifest: Any, file: Path) -> None:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise _damaged(file, "no format version", f"format {OLDEST_READABLE}–{FORMAT}")
    found = int(manifest["format"])
    readable_from = int(manifest.get("readable_from", found))
    if readable_from > FORMAT:
        raise BundleRefused(
            "the bundle was written by a newer recsys",
            where=str(file),
            found=f"format {found}, readable from format {readable_from}",
            expected=f"format {OLDEST_READABLE}–{FORMAT}",
            fix="upgrade recsys here, or promote a version this one wrote",
        )
    if found < OLDEST_READABLE:
        raise BundleRefused(
            "the bundle's format is no longer read",
            where=str(file),
            found=f"format {found}",
            expected=f"format {OLDEST_READABLE}–{FORMAT}",
            fix="run `recsys nightly` to make a new one",
        )
    lacking = {"parts", "sources", "fit_until", "n_items", "facts"} - manifest.keys()
    if lacking:
        raise _damaged(file, f"no {', '.join(sorted(lacking))}", "a whole manifest")


def _check_parts(folder: Path, manifest: Mapping[str, Any], verify: bool, afresh: bool) -> None:
    listed: dict[str, Mapping[str, Any]] = {
        name: entry for part in manifest["parts"].values() for name, entry in part["files"].items()
    }
    present = set(files_below(folder)) - {MANIFEST}
    for name in sorted(listed.keys() - present):
        raise _damaged(folder / name, "the file is missing", f"{listed[name]['bytes']} bytes")
    for name in sorted(present - listed.keys()):
        raise _damaged(folder / name, "a file the manifest does not list", "only listed files")
    for name, entry in listed.items():
        size = (folder / name).stat().st_size
        if size != entry["bytes"]:
            raise _damaged(folder / name, f"{size} bytes", f"{entry['bytes']} bytes")
    if verify:
        digests = {name: str(entry["sha256"]) for name, entry in listed.items()}
        _check_digests(folder, digests, afresh)


def _check_digests(folder: Path, expected: Mapping[str, str], afresh: bool) -> None:
    notes = folder.parent / f"{folder.name}.verified.json"
    keep_notes = len(folder.name) == 64
    known = _read_notes(notes) if keep_notes and not afresh else {}
    fresh = {}
    for name, digest in expected.items():
        stamp = _stamp(folder / name)
        fresh[name] = [stamp, digest]
        if known.get(name) == [stamp, digest]:
            continue
        found = hash_file(folder / name)
        if found != digest:
            raise _damaged(folder / name, f"SHA-256 {found[:16]}…", f"SHA-256 {digest[:16]}…")
    if keep_notes and fresh != known:
        with contextlib.suppress(OSError, RecsysError):
            write_json(notes, fresh)


def _stamp(file: Path) -> str:
    """What changes when a file is written to or replaced."""
    stat = file.stat()
    return f"{stat.st_ino}:{stat.st_mtime_ns}:{stat.st_size}"


def _read_notes(file: Path) -> dict[str, Any]:
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _damaged(file: Path, found: str, expected: str) -> BundleRefused:
    return BundleRefused(
        "the bundle does not match its manifest",
        where=str(file),
        found=found,
        expected=expected,
        fix="remove this copy; it is fetched again, or roll back with `recsys models rollback`",
    )


def _save_part(part: Saves, folder: Path) -> None:
    folder.mkdir(parents=True)
    part.save(folder)


def _write_items(folder: Path, items: Mapping[str, Any]) -> None:
    folder.mkdir()
    ids = items["ids"]
    _write_strings(folder, "ids", ids)
    vectors = items.get("vectors")
    if vectors is not None:
        if len(vectors) != len(ids):
            raise ValueError(f"items: {len(vectors)} vectors for {len(ids)} ids")
        np.save(folder / "vectors.npy", np.ascontiguousarray(vectors, dtype=np.float32))
    if items.get("searched") is not None:
        np.save(folder / SEARCHED, np.ascontiguousarray(items["searched"], dtype=np.uint8))
    if items.get("index") is not None:
        shutil.copytree(items["index"], folder / Path(items["index"]).name)
    if items.get("texts") is not None:
        _write_strings(folder, "texts", items["texts"])
    if items.get("catalogue") is not None:
        shutil.copytree(items["catalogue"], folder / "catalogue")


def _write_strings(folder: Path, name: str, values: Sequence[str]) -> None:
    """UTF-8 bytes end to end, and int64 offsets: an array of strings that can be mapped."""
    encoded = [str(value).encode("utf-8") for value in values]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    (folder / f"{name}.utf8").write_bytes(b"".join(encoded))
    np.save(folder / f"{name}.offsets.npy", offsets)


def _read_strings(folder: Path, name: str) -> list[str]:
    blob = (folder / f"{name}.utf8").read_bytes()
    offsets = np.load(folder / f"{name}.offsets.npy").tolist()
    return [blob[low:high].decode("utf-8") for low, high in pairwise(offsets)]


def _other_times(folder: Path, ranker: Saves) -> dict[str, int]:
    """fit_until of ranker and encoder, where they say it."""
    times = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        declared = json.loads((folder / ENCODER / MANIFEST).read_text(encoding="utf-8"))
        times[ENCODER] = int(declared["fit_until"])
    if hasattr(ranker, "fit_until"):
        times[RANKER] = int(ranker.fit_until)
    return times


def _manifest(
    folder: Path,
    sources: list[str],
    items: Mapping[str, Any],
    times: Mapping[str, int],
    features_json: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    facts = dict(redact(plain(facts)))
    return {
        "format": FORMAT,
        "readable_from": READABLE_FROM,
        "parts": _parts(folder),
        "sources": sources,
        "fit_until": dict(times),
        "n_items": len(items["ids"]),
        "feature_set": hash_json(features_json),
        "precision": facts.pop("precision", "float32"),
        "data_window": facts.pop("data_window", None),
        "config": facts.pop("config", None),
        "code_version": facts.pop("code_version", None) or __version__,
        "facts": facts,
    }


def _parts(folder: Path) -> dict[str, Any]:
    """{part: {files: {relative name: {sha256, bytes}}}}; a part is a top folder or a source."""
    parts: dict[str, Any] = {}
    for name in files_below(folder):
        pieces = name.split("/")
        part = "/".join(pieces[:2]) if pieces[0] == SOURCES else pieces[0]
        entry = {"sha256": hash_file(folder / name), "bytes": os.stat(folder / name).st_size}
        parts.setdefault(part, {"files": {}})["files"][name] = entry
    return parts
