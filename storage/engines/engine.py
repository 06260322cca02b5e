"""What an engine is: something that does the same work for every part of the data.

The work is told a part's number and answers with a few facts; what it reads and what it leaves lies
in a scratch folder (`recsys.storage.scratch`) that every machine reaches. So engines move no rows, a
part that is done twice leaves the same bytes, and what is finished stays finished when the rest fails.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from recsys.data_schemas.errors import ExitCode, RecsysError, UsageError
from recsys.storage.files import plain
from recsys.storage.scratch import ScratchFolder

Facts = Mapping[str, Any]
Check = Callable[[pa.Schema], None]
"""Refuses a table by its columns, before its rows are read."""
PartWork = Callable[[int], Facts]
"""Does one part and says what it did; picklable, and safe to do twice."""
GPUS: Final = "CUDA_VISIBLE_DEVICES"
"""Set in a task that an engine has given GPUs of its own."""
FAILED: Final = "recsys_error"


class EngineFailed(RecsysError):
    """Parts could not be made for reasons that are not theirs; those that are finished are kept."""


class Engine(Protocol):
    """Runs work for parts, in any order and as often as it takes."""

    @property
    def shares_disk(self) -> bool:
        """Whether the work sees this machine's disk under the same paths."""
        ...

    def sql(self, query: str, into: ScratchFolder, folder: Path, where: str, check: Check) -> None:
        """Write the rows of a query as Parquet files, at least one, in no stated order.

        Args:
            query: one SELECT in the engine's dialect.
            into: an empty folder; on this machine's disk only where `shares_disk`.
            folder: what relative paths of the query are relative to, where the engine knows any.
            where: setting that names the query, for messages.
            check: told the columns before any row is read.

        Raises:
            UsageError: the query is wrong.
            RecsysError: it failed on the way.
        """
        ...

    def each_part(self, work: PartWork, parts: Sequence[int]) -> Iterator[Facts]:
        """Facts of each part, in the order of `parts`.

        Raises:
            EngineFailed: what became of the engine; finished parts are kept.
            RecsysError: what a part raised.
        """
        ...


def answered(work: PartWork, part: int) -> dict[str, Any]:
    """A part's facts, or its error in words: an exception does not outlive the way back from another
    machine whole."""
    try:
        return dict(plain(work(part)))
    except RecsysError as error:
        kept = {
            name: getattr(error, name) for name in ("what", "where", "found", "expected", "fix")
        }
        return {FAILED: {**plain(kept), "code": int(error.code)}}


def facts_of(answer: Mapping[str, Any]) -> Facts:
    """The facts of an answer.

    Raises:
        RecsysError: the part's own.
    """
    if FAILED not in answer:
        return answer
    told = dict(answer[FAILED])
    code = ExitCode(told.pop("code"))
    raise RecsysError(str(told.pop("what")), **told, code=code)


def wrong_query(query: str, where: str, found: str, dialect: str) -> UsageError:
    """The message for a query that an engine does not understand."""
    return UsageError(
        "the query cannot be run",
        where=where,
        found=f"{found.rstrip('.')}, in `{' '.join(query.split())[:200]}`",
        expected=f"one SELECT of {dialect}",
        fix="try it there, and correct it in the config",
    )
