"""What ingesting one more day costs, against ingesting everything, and that both give the same bytes.

    python benchmarks/second_ingest.py FOLDER [--millions 2] [--late 1000]

Events lie in 60 daily files (`benchmarks/growth.py`); a 61st comes in, once as a day of its own, and once more
with some rows that fall into older days. Each ingestion is a process of its own; processor time, since other
work may share the machine.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.growth import DAYS, ITEMS, USERS_A_MILLION, write, write_day


def one(folder, out, earlier):
    """Ingest; wall and processor seconds, and how many files of events were linked."""
    from recsys.data_schemas.config import load_config
    from recsys.ingestion.tables.ingest import ingest
    from recsys.ingestion.tables.kept_events import FilePrint, KnownInputs
    from recsys.storage.files import hash_file

    began, cpu = time.perf_counter(), time.process_time()
    files = sorted((folder / "events").glob("*.parquet"))
    prints = {str(f): FilePrint(f.name, hash_file(f)) for f in files}
    known = KnownInputs(prints, None, earlier)
    # A vocabulary is kept from night to night; the same moment, so that the bytes can be compared.
    previous = earlier / "items.parquet" if earlier else None
    summary = ingest(
        load_config(folder / "recsys.yaml"), out, previous, now=1_800_000_000_000_000, known=known
    )
    linked = sum(f.stat().st_nlink > 1 for f in (out / "events").iterdir())
    print(
        json.dumps(
            {
                "wall": time.perf_counter() - began,
                "cpu": time.process_time() - cpu,
                "linked": linked,
                "files": len(list((out / "events").iterdir())),
                "events": summary["events"],
            }
        )
    )


def run(folder, out, earlier, name):
    command = [sys.executable, __file__, str(folder), "--out", str(out)]
    command += ["--earlier", str(earlier)] if earlier else []
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(said.splitlines()[-1])
    print(
        f"{name:34} {found['cpu']:7.1f} s of processor, {found['wall']:7.1f} s,"
        f" {found['events']:,} events, {found['linked']} of {found['files']} files linked",
        flush=True,
    )
    return found["cpu"]


def same(first, second):
    names = {str(f.relative_to(first)) for f in first.rglob("*") if f.is_file()}
    assert names == {str(f.relative_to(second)) for f in second.rglob("*") if f.is_file()}
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def spread_late(file, count):
    """Move a day's first rows to days before, evenly."""
    import duckdb

    aside = file.with_suffix(".aside")
    with duckdb.connect() as duck:
        duck.execute("SET TimeZone = 'UTC'")
        duck.execute(
            f"COPY (SELECT * EXCLUDE (file_row_number) REPLACE (CASE WHEN file_row_number < {count} THEN timestamp -"
            f" to_days(CAST(1 + file_row_number % 3 AS INTEGER)) ELSE timestamp END AS timestamp)"
            f" FROM read_parquet('{file}', file_row_number = true))"
            f" TO '{aside}' (FORMAT parquet)"
        )
    aside.rename(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--millions", type=int, default=2)
    parser.add_argument("--late", type=int, default=1_000)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--earlier", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.folder
    if args.out:
        return one(folder, args.out, args.earlier)
    import duckdb

    events = args.millions * 1_000_000
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, events)
    first = folder / "first"
    run(folder, first, None, f"{DAYS} days, everything")
    with duckdb.connect() as duck:
        duck.execute("SET TimeZone = 'UTC'")
        users = max(1, events * USERS_A_MILLION // 1_000_000)
        write_day(duck, folder, events // DAYS, DAYS, users, ITEMS)
    for name in ("one more day", f"with {args.late:,} rows of the 3 days before"):
        built, scratch = folder / "built", folder / "scratch"
        low = run(folder, built, first, name)
        whole = run(folder, scratch, None, f"{name}, everything")
        if not same(built, scratch):
            sys.exit("the bytes differ")
        print(f"the same bytes; {low / whole:.0%} of the processor time")
        shutil.rmtree(built)
        shutil.rmtree(scratch)
        spread_late(folder / f"events/{DAYS:03d}.parquet", args.late)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
