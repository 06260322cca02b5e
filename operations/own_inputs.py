"""Where a command may not write: over, or among, what it reads or a later night will read.

Asked by every command whose output is a path that the caller names, before any work.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch, fnmatchcase
from glob import has_magic
from pathlib import Path
from typing import Final

from recsys.data_schemas.config import RecsysConfig, SqlTable, load_config
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.data_schemas.tables import TABLES
from recsys.storage.file_systems import is_remote

ALL: Final = ("*",)
"""What is written into a folder that is replaced as a whole."""
CONFIG: Final = "recsys.yaml"
FILE_DATABASES: Final = ("duckdb", "sqlite")
"""Connections that are one file of the disk."""
_QUOTED: Final = re.compile(r"""['"]([^'"]*[./][^'"]*)['"]""")
"""What may be a path in a query."""
_ANY_TABLE: Final = "any.parquet"
"""Stands for a table's file that is written into a folder, whatever its name."""


@dataclass(frozen=True)
class OwnInput:
    """Something that is read: a file, a folder or a pattern of files."""

    label: str
    """As the caller knows it: `data.items`, `--users`."""
    place: Path
    """From the root."""

    @classmethod
    def at(cls, label: str, place: str | Path, folder: Path | None = None) -> "OwnInput":
        """One whose path is relative to `folder`, or to where the command runs."""
        # Links are followed up to the first part that is a pattern.
        parts = Path(os.path.abspath((folder or Path.cwd()) / place)).parts
        first = next((n for n, part in enumerate(parts) if has_magic(part)), len(parts))
        whole = Path(*parts)
        if whole.exists() or first == len(parts):
            return cls(label, whole.resolve())
        return cls(label, Path(*parts[:first]).resolve().joinpath(*parts[first:]))

    def met_by(self, out: Path, writes: Sequence[str]) -> str | None:
        """How an output touches it, in words; None if it does not. See `refuse_own_inputs`."""
        if out == self.place or (out.exists() and self.place.exists() and out.samefile(self.place)):
            return "is"
        if self.place.is_dir() and out.is_relative_to(self.place):
            return "lies in"
        if not self.place.exists() and has_magic(str(self.place)):
            tried = (out, out / _ANY_TABLE) if writes else (out,)
            return "is matched by" if any(_matches(p, self.place) for p in tried) else None
        if writes and self.place.is_relative_to(out):
            inside = self.place.relative_to(out).as_posix()
            return "holds" if any(fnmatch(inside, pattern) for pattern in writes) else None
        return None


def refuse_own_inputs(
    out: Path,
    option: str,
    config: RecsysConfig | None,
    config_file: str | Path | None,
    inputs: Mapping[str, str | None] | None = None,
    writes: Sequence[str] = (),
) -> None:
    """Refuse an output that is a table, the config or another input, or that lies where a table's
    files lie, so that the next night would read it.

    The workspace may be written into, also where it lies in the folder of a table.

    Args:
        out: the output, a file or a folder.
        option: by which it was named, for the message.
        config: of the workspace; None for a command without one, for which every `recsys.yaml` in a
            folder above the output counts.
        config_file: where that config lies.
        inputs: further files or folders that the command reads, by their options.
        writes: patterns of the names written into it if it is a folder; none for a file.

    Raises:
        UsageError: it does; the message names what it meets.
    """
    named = [OwnInput.at(label, given) for label, given in (inputs or {}).items() if given]
    # A link that lies among a table's files counts there as well as where it leads.
    outs = dict.fromkeys((out.resolve(), out.parent.resolve() / out.name))
    if config is None or config_file is None:
        above = [file for place in outs for file in _configs_above(place)]
    else:
        above = [(config, Path(config_file))]
    for one in outs:
        for place in named:
            _refuse(out, option, place, place.met_by(one, writes))
        for settings, file in above:
            workspace = settings.workspace_path
            for place in _read_by(settings, file):
                how = place.met_by(one, writes)
                ours = one.is_relative_to(workspace) and workspace.is_relative_to(place.place)
                if not (how == "lies in" and ours):
                    _refuse(out, option, place, how)


def _refuse(out: Path, option: str, place: OwnInput, how: str | None) -> None:
    if how is None:
        return
    raise UsageError(
        "the output would be written over what is read"
        if how in ("is", "holds")
        else "the output would lie among the files of what is read",
        where=option,
        found=f"{out}, which {how} {place.label} ({place.place})",
        expected="a path apart from tables, config and inputs",
        fix="name another path; the workspace's folder may be written into",
    )


def _configs_above(out: Path) -> Iterator[tuple[RecsysConfig, Path]]:
    """The configs that can be read in the folders above an output."""
    for folder in out.parents:
        try:
            if (folder / CONFIG).is_file():
                yield load_config(folder / CONFIG), folder / CONFIG
        except (RecsysError, OSError):
            continue  # whose tables they are cannot be known


def _read_by(config: RecsysConfig, file: Path) -> Iterator[OwnInput]:
    """What a config names that lies on the disk, the config first."""
    yield OwnInput.at("the config", file)
    data, folder = config.data, config.path(".")
    connection = data.connection
    if connection is not None:
        scheme, _, rest = connection.partition("://")
        database = rest.split("?", 1)[0]
        if scheme in FILE_DATABASES and database:
            yield OwnInput.at("data.connection", database)
    for table in TABLES:
        source = getattr(data, table, None)
        if isinstance(source, SqlTable):
            anchor = folder if connection is None else None
            for quoted in _QUOTED.findall(source.query):
                if not is_remote(quoted):
                    yield OwnInput.at(f"data.{table}", quoted, anchor)
        elif source is not None and connection is None and not is_remote(source):
            yield OwnInput.at(f"data.{table}", source, folder)
    settings = {
        "serving.keys_file": config.serving.keys_file,
        "serving.sentences": config.serving.sentences,
    }
    for name, given in settings.items():
        if given is not None:
            yield OwnInput.at(name, given, folder)
    for name, given in (
        ("encoder.model", config.encoder.model),
        ("encoder.teacher", config.encoder.teacher),
    ):
        if given is not None and Path(given).is_absolute():
            yield OwnInput.at(name, given)


def _matches(path: Path, pattern: Path) -> bool:
    """Whether a recursive glob would find a path, once it is there."""

    def match(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
        if not wanted:
            return not parts
        if wanted[0] == "**":
            return match(parts, wanted[1:]) or (bool(parts) and match(parts[1:], wanted))
        return bool(parts) and fnmatchcase(parts[0], wanted[0]) and match(parts[1:], wanted[1:])

    return match(path.parts, pattern.parts)
