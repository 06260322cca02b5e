"""Events a second into the PostgreSQL log, from one process and from four, beside two peers.

    python benchmarks/log_writers.py postgresql://me@127.0.0.1/test [--seconds 5] [--rounds 3]

Each process appends events in lots, a durable answer for each. Peers in the same rounds: the same
log with a statement for each record, and COPY into a bare table without keys, order or answers, which
is what the disk and the server could do at most. Prints medians, spread and ratios. The database is
filled and should be an empty one of its own.
"""

import argparse
import multiprocessing
import statistics
import sys
import time

LOT = 500
"""Events of one call."""
AT_ONCE = 8
"""Calls of a process that wait for their answers at a time, as a worker under load has."""


def lot(name, number):
    from recsys.data_schemas import columns as c

    return [
        {
            c.USER_ID: f"user-{(number * LOT + n) % 5000}",
            c.ITEM_ID: f"item-{n % 997}",
            c.EVENT_TYPE: "click",
            c.TIMESTAMP: 1_700_000_000_000_000 + number * LOT + n,
            c.EVENT_ID: f"{name}-{number}-{n}",
        }
        for n in range(LOT)
    ]


def write(uri, way, name, seconds, start, told):
    if way == "copy":
        return copy(uri, name, seconds, start, told)
    from recsys.storage.eventlog import open_log
    from recsys.storage.eventlog.log import event_write
    from recsys.storage.eventlog.postgres import PostgresLog

    if way == "one by one":
        whole = PostgresLog._insert_all
        PostgresLog._insert_all = lambda log, writes: [
            entry for write in writes for entry in whole(log, [write])
        ]
    from recsys.serving.server import SWITCH_SECONDS

    sys.setswitchinterval(SWITCH_SECONDS)
    with open_log(uri) as log:
        start.wait()
        until, number, waiting = time.monotonic() + seconds, 0, []
        while time.monotonic() < until:
            waiting.append(log.submit([event_write(event) for event in lot(name, number)]))
            number += 1
            if len(waiting) >= AT_ONCE:
                waiting.pop(0).result()
        for answer in waiting:
            answer.result()
    told.put((number * LOT, time.monotonic() - until + seconds))
    return None


def copy(uri, name, seconds, start, told):
    import psycopg

    from recsys.storage.eventlog.log import encode

    with psycopg.connect(uri) as connection:
        start.wait()
        until, number = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            with connection.cursor().copy("COPY bare (payload) FROM STDIN") as stream:
                for event in lot(name, number):
                    stream.write_row((encode(event),))
            connection.commit()
            number += 1
    told.put((number * LOT, time.monotonic() - until + seconds))


def measured(uri, way, processes, seconds, turn):
    context = multiprocessing.get_context("spawn")
    start, told = context.Barrier(processes), context.Queue()
    writers = [
        context.Process(
            target=write, args=(uri, way, f"{way}-{turn}-{processes}-{n}", seconds, start, told)
        )
        for n in range(processes)
    ]
    for writer in writers:
        writer.start()
    answers = [told.get() for _ in writers]
    for writer in writers:
        writer.join()
    return sum(events for events, _ in answers) / max(took for _, took in answers)


def main():
    import psycopg

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with psycopg.connect(args.uri) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bare (payload TEXT NOT NULL)")
    ways = [(way, n) for n in (1, 4) for way in ("groups", "one by one", "copy")]
    found = {key: [] for key in ways}
    for turn in range(args.rounds):
        for way, processes in ways:
            rate = measured(args.uri, way, processes, args.seconds, turn)
            found[way, processes].append(rate)
            print(f"  {processes} × {way}: {rate:,.0f} events/s", flush=True)
    for (way, processes), rates in found.items():
        middle = statistics.median(rates)
        ratio = statistics.median(found["groups", processes]) / middle
        print(
            f"{processes} process(es), {way}: median {middle:,.0f} events/s "
            f"({min(rates):,.0f} to {max(rates):,.0f}); the log is ×{ratio:.2f} of it"
        )


if __name__ == "__main__":
    main()
