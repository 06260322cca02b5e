"""A whole night over made-up events, by the command: what each stage takes, and memory at its peak.

    python benchmarks/whole_night.py FOLDER [--millions 2 20] [--minutes 10] [--layers 2] [--keep]

The world is that of `benchmarks/growth.py`: a tenth as many users as events, 100,000 items, 60 daily files.
`recsys nightly` runs over it as a process of its own, with the default encoder's first layers and texts of 16
tokens, so that the texts' share, which does not grow with the events, stays short. Of the process and its
children together, anonymous memory (what no file backs) is sampled every 200 ms. Printed: the night's own
lines of its stages, each with the peak since the line before, and at the end processor time, the peak of all and
of what came after the tables were ingested, and bytes on disk; between two sizes, bytes for a further event of the
latter. What was promoted is of no interest: these events are drawn independently, so there is nothing to learn
in them.
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.engine_memory import status
from benchmarks.growth import on_disk, write

TABLES_DONE = re.compile(r"Z tables: [0-9.]+ (s|min)")


def first_layers(layers, to):
    """The default encoder's first layers as a folder of a model; returns it."""
    from transformers import AutoModel, AutoTokenizer

    from recsys.encoder.pretrained import DEFAULT_MODEL, resolve_model

    source = resolve_model(DEFAULT_MODEL)
    model = AutoModel.from_pretrained(source)
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(source).save_pretrained(to)
    return to


def anonymous_of(process):
    """MB that no file backs, of a process and all below it."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    return sum(status(one.pid).get("RssAnon", 0) for one in family) / 1024


class Peak:
    """The most that was seen since it was last asked."""

    def __init__(self, process):
        self.most = 0.0
        threading.Thread(target=self._look, args=(process,), daemon=True).start()

    def _look(self, process):
        while True:
            self.most = max(self.most, anonymous_of(process))
            time.sleep(0.2)

    def since(self):
        found, self.most = self.most, 0.0
        return found


def night(folder, millions, args):
    """Runs it and says its stages; MB at the peak after the tables were ingested."""
    began = time.time()
    write(folder, millions * 1_000_000)
    world = on_disk(folder)
    print(f"{millions} million events: written in {time.time() - began:,.0f} s, {world / 1e6:,.0f} MB", flush=True)  # fmt: skip
    model = first_layers(args.layers, folder / "encoder")
    (folder / "recsys.yaml").write_text(
        "data: {items: items.parquet, events: events}\n"
        f"budget_minutes: {args.minutes}\nencoder: {{model: ./{model.name}, max_tokens: 16}}\n"
    )
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    command = [sys.executable, "-m", "recsys", "nightly", "-c", "recsys.yaml"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:  # fmt: skip
        peak, most, ingested = Peak(psutil.Process(child.pid)), [0.0], False
        for line in child.stdout:
            here = peak.since()
            most = [*most, here] if ingested else [max(most[0], here)]
            ingested = ingested or bool(TABLES_DONE.search(line))
            print(f"{millions:4} M {line.strip()} [{here:,.0f} MB]", flush=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if child.returncode:
        sys.exit(f"the night ended with {child.returncode}")
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{millions} million events: {time.time() - began:,.0f} s, {taken:,.0f} of processor;"
        f" peak {most[0]:,.0f} MB until the tables were ingested, {max(most[1:]):,.0f} MB after; on disk"
        f" {(on_disk(folder) - world) / millions / 1e6:.1f} bytes an event",
        flush=True,
    )
    return max(most[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--millions", type=int, nargs="+", default=[2, 20])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    peaks = {}
    for millions in args.millions:
        place = args.folder / f"{millions}m"
        try:
            peaks[millions] = night(place, millions, args)
        finally:
            if not args.keep:
                shutil.rmtree(place, ignore_errors=True)
    low, high = min(peaks), max(peaks)
    if low < high:
        rise = (peaks[high] - peaks[low]) * 2**20 / (high - low) / 1e6
        print(f"{rise:.1f} bytes of memory for a further event")
    return 0


if __name__ == "__main__":
    sys.exit(main())
