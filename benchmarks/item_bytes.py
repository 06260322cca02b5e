"""What an item takes of a release: bytes by part, of a bundle that is there and of a larger one foreseen.

    python benchmarks/item_bytes.py BUNDLE [--items 1000000]

Parts that grow with the items are those whose arrays have a row, or a run of rows, for each; the rest
(the encoder, the ranker) is told as a whole. `--items` multiplies: it says what so many would take if each
were like these, with the search index that begins at 100,000 items.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

FIXED = ("encoder", "ranker", "manifest.json", "features.json")
PER_LIST = 300


def part_of(relative):
    """The part of a release that a file belongs to."""
    if relative.parts[0] == "sources":
        return f"source {relative.parts[1]}"
    if relative.parts[0] == "items":
        return {"vectors.npy": "vectors", "lists": "search index"}.get(
            relative.parts[1], "ids, texts, attributes"
        )
    return relative.parts[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    arguments = parser.parse_args()
    items = json.loads((arguments.bundle / "manifest.json").read_text())["n_items"]
    found = Counter()
    for file in arguments.bundle.rglob("*"):
        if file.is_file():
            found[part_of(file.relative_to(arguments.bundle))] += file.stat().st_size
    fixed = sum(size for part, size in found.items() if part in FIXED)
    print(
        f"{items:,} items, {sum(found.values()) / 1e6:.0f} MB, of them {fixed / 1e6:.0f} MB fixed"
    )
    total = 0.0
    for part, size in found.most_common():
        if part not in FIXED:
            total += size / items
            print(f"{part}: {size / items:,.0f} bytes an item")
    if "search index" not in found:
        width = np.load(arguments.bundle / "items" / "vectors.npy", mmap_mode="r").shape[1]
        index = width + 4 + 4 + 4 + 4 * width / PER_LIST
        total += index
        print(f"search index, from 100,000 items on: {index:,.0f} bytes an item (foreseen)")
    print(f"together {total:,.0f} bytes an item; {arguments.items:,} items would take", end=" ")
    print(f"{(fixed + total * arguments.items) / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
