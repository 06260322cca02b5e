"""A newcomer's path: from a wheel and a shop's CSV to the first list of their own, command by command.

    python benchmarks/newcomers_path.py [--wheel FILE] [--packages DIR]

Makes an empty environment, installs the wheel (built from this checkout unless named), writes a shop's CSV with
headers of its own, and runs what a newcomer would: the first guess, what the errors say, and the line that works.
Prints each command, its wall and processor seconds, and the end of its output. `--packages` names a folder of
packages (site-packages of another environment) that is used instead of downloading the dependencies; the
installation is then no measure.
"""

import argparse
import csv
import datetime
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST_GUESS = 'recsys.Dataset("orders.csv", "articles.csv")'
NAMES = '{"Kunde": "user_id", "Artikel-Nr": "item_id", "Bestellt am": "timestamp", "Bezeichnung": "title"}'
ASKED_FOR_ITEMS = f'recsys.Dataset("orders.csv", "artikel.csv", columns={NAMES})'
WITHOUT_TYPE = f'recsys.Dataset("orders.csv", "articles.csv", columns={NAMES})'
WITHOUT_ZONE = (
    f'recsys.Dataset("orders.csv", "articles.csv", columns={NAMES}, event_type="purchase")'
)
WHOLE = WITHOUT_ZONE[:-1] + ', tz="Europe/Berlin")'
LISTS = f"data = {WHOLE}; print(recsys.models.ItemItem().fit(data).recommend(k=3).head(6))"
CONFIG = "data: {items: data/items.parquet, events: data/events.parquet}\n"


def shop(folder: Path, people: int = 200, articles: int = 60) -> None:
    """Orders and articles as another system exports them: semicolons, a zone that nobody wrote down."""
    draw = random.Random(5)
    start = datetime.datetime(2026, 1, 1)
    with (folder / "articles.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["Artikel-Nr", "Bezeichnung", "Preis"])
        for n in range(articles):
            rows.writerow([f"A-{n:04}", f"{('Tee', 'Tasse', 'Kanne')[n % 3]} Nr. {n}", f"{n}.90"])
    with (folder / "orders.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["Kunde", "Artikel-Nr", "Bestellt am", "Menge"])
        for person in range(people):
            for n in draw.sample(range(person % 3, articles, 3), 6):
                at = start + datetime.timedelta(minutes=draw.randrange(300 * 1440))
                rows.writerow([f"K{person}", f"A-{n:04}", f"{at:%Y-%m-%d %H:%M:%S}", 1])


def step(label: str, command: Sequence[str], folder: Path, last: int = 8) -> None:
    """Run a command and print what it took and the end of what it said."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"\n{label}: {wall:.1f} s, {processor:.1f} s of processor time, exit code {done.returncode}"
    )
    for line in done.stdout.rstrip().splitlines()[-last:]:
        print(f"    {line[:300]}")


def python(code: str) -> list[str]:
    """The command of a line of Python; an error of ours is shown as its own text, as a notebook shows it."""
    return [
        "-c",
        f"import recsys\ntry:\n    {code}\nexcept recsys.RecsysError as error:\n"
        "    print(f'{type(error).__name__}: {error}')",
    ]


def main() -> None:
    """The whole path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--packages", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recsys-newcomer-") as place:
        folder = Path(place)
        shop(folder)
        if given.wheel is None:
            build = [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "-q",
                "--no-deps",
                str(ROOT),
                "-w",
                place,
            ]
            step("build the wheel", build, folder)
        wheel = given.wheel or next(folder.glob("*.whl"))
        venv.create(folder / "env", with_pip=True)
        home = str(folder / "env" / "bin" / "python")
        more = []
        if given.packages is not None:
            (site,) = (folder / "env" / "lib").glob("python*/site-packages")
            (site / "zz_packages.pth").write_text(f"{given.packages}\n", encoding="utf-8")
            more = ["--no-deps"]
        install = [home, "-m", "pip", "install", "-q", *more, str(wheel)]
        step(
            "pip install recsys-nightly" + (", its packages at hand" if more else ""),
            install,
            folder,
        )
        step("import recsys", [home, *python("print(recsys.__version__)")], folder)
        for label, code in (
            ("a first guess", FIRST_GUESS),
            ("with a misspelt file of articles", ASKED_FOR_ITEMS),
            ("with names for the columns", WITHOUT_TYPE),
            ("with what an order is", WITHOUT_ZONE),
            ("with the zone: the first lists", LISTS),
            ("again", LISTS),
        ):
            step(f"{label}\n    {code}", [home, *python(code)], folder)
        command = str(folder / "env" / "bin" / "recsys")
        step("recsys init shop", [command, "init", "shop"], folder)
        step(
            "recsys validate -c shop/recsys.yaml",
            [command, "validate", "-c", "shop/recsys.yaml"],
            folder,
        )
        (folder / "shop" / "mine.yaml").write_text(CONFIG.replace("items:", "articles:"), "utf-8")
        step("a misspelt setting", [command, "validate", "-c", "shop/mine.yaml"], folder)
        (folder / "shop" / "data" / "items.parquet").unlink()
        (folder / "shop" / "mine.yaml").write_text(CONFIG, "utf-8")
        step("no items file", [command, "validate", "-c", "shop/mine.yaml"], folder)


if __name__ == "__main__":
    main()
