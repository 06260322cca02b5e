"""Published data sets, converted into the input tables: one module per layout.

Nothing is downloaded: the caller gives a folder with the unpacked data set.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from recsys.data_schemas.errors import UsageError
from recsys.ingestion.importers import (
    amazon,
    ebnerd,
    mind,
    movielens,
)
from recsys.ingestion.importers.layout import Job
from recsys.ingestion.importers.sound_rows import leave_out_broken
from recsys.ingestion.tables.duck import engine
from recsys.ingestion.tables.init_folder import refuse_occupied
from recsys.storage.files import atomic_folder

LAYOUTS: Mapping[str, Callable[[Job], None]] = {
    "movielens": movielens.convert,
    "amazon": amazon.convert,
    "mind": mind.convert,
    "ebnerd": ebnerd.convert,
}
"""Name of a layout → what converts it."""

__all__ = ["LAYOUTS", "import_dataset"]


def import_dataset(layout: str, source: Path, target: Path) -> dict[str, int]:
    """Convert a data set into `target/data/*.parquet` and `target/recsys.yaml`; rows by table.

    What is written breaks no rule of the tables; the notes in recsys.yaml say what was left out.
    Memory is bounded by DuckDB, which spills beside the target.

    Raises:
        UsageError: a file of the layout is missing, or the target holds something.
        DataRefused: a file is not what the layout says.
    """
    if layout not in LAYOUTS:
        raise UsageError(
            "unknown layout", found=layout, expected="one of " + ", ".join(sorted(LAYOUTS))
        )
    if not source.is_dir():
        raise UsageError(
            "the data set's folder is not there",
            where=str(source),
            fix="unpack the data set and name its folder",
        )
    refuse_occupied(target, "import --to")
    # Absolute, so that no table depends on how the folder was named.
    source = source.resolve()
    with atomic_folder(target, "the imported tables") as aside:
        scratch = aside / ".scratch"
        scratch.mkdir()
        (aside / "data").mkdir()
        with engine(scratch) as duck:
            job = Job(duck, layout, source, aside)
            LAYOUTS[layout](job)
            leave_out_broken(job, scratch)
        job.finish(scratch)
    return job.counts
