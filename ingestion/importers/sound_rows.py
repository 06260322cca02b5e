"""What an importer wrote is ingested at once, and rows that break a rule are left out with a note: an
importer never writes what `validate` sets aside or refuses.
"""

from pathlib import Path

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.tables import RULES
from recsys.ingestion.importers.layout import Job
from recsys.ingestion.tables.duck import quote
from recsys.ingestion.tables.ingest import QUARANTINE, ingest
from recsys.storage.files import atomic_file


def leave_out_broken(job: Job, scratch: Path) -> None:
    """Take the rows that break a rule out of the tables of a conversion.

    Raises:
        DataRefused: nothing of a table that is needed would be left.
    """
    data = {table: str(job.path(table).resolve()) for table in job.counts}
    config = parse_config({"data": data | {"quarantine_limit": 1.0}}, job.target)
    checked = scratch / "checked"
    try:
        summary = ingest(config, checked)
    except DataRefused as error:
        raise DataRefused(
            "nothing of the data set can be used",
            where=str(job.source),
            found="; ".join(str(x) for x in (error.what, error.found) if x is not None),
            expected=f"the files of the {job.layout} layout as published, of one release",
            fix="unpack the whole data set into one folder; the metadata name the items that the"
            " events are on",
        ) from None
    for table, facts in summary["tables"].items():
        if facts["quarantined"]:
            _leave_out(job, table, checked / QUARANTINE / f"{table}.parquet")
        for rule, count in facts["rules"].items():
            rows = "row" if count == 1 else "rows"
            job.notes.append(f"{count:,} {rows} of {table} left out: {RULES[rule].says}.")


def _leave_out(job: Job, table: str, quarantine: Path) -> None:
    """Write a table again without the rows that are in its quarantine, in its order."""
    path = job.path(table)
    with atomic_file(path) as aside:
        job.duck.copy(
            f"SELECT * EXCLUDE (file_row_number) FROM read_parquet({quote(str(path))},"
            f" file_row_number = true) WHERE file_row_number NOT IN (SELECT {c.SOURCE_ROW}"
            f" FROM read_parquet({quote(str(quarantine))})) ORDER BY file_row_number",
            aside,
        )
    job.recount(table)
