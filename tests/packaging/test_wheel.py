"""The wheel: one top-level name, all files; and at work where nothing else of ours is."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import recsys

ROOT = Path(__file__).parents[2]
FOREIGN = ("data_schemas", "features", "serving", "storage", "training", "operations")
"""Names that a folder of the user's own may have."""
TINY = """
encoder: {{model: {model}, head_steps: 6, max_steps: 2, epochs: 1, max_tokens: 16}}
windows: {{cuts: 1}}
sources: {{use: [item_item, text, popular, recent], tune: false, depth: 60, candidates: 40}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
"""
CELL = """
import recsys
config = recsys.load_config("shop/recsys.yaml")
registry = recsys.Registry(config)
registry.promote(1, "whether so little data passes the gate is not the question here")
release = recsys.load_release(config)
query = recsys.RankingQuery("somebody", release.moment, k=5)
print(len(release.answer(query).item_ids), recsys.__file__)
"""


def names_of(wheel):
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


def shipped():
    """All files of the rooms, as a wheel names them."""
    for room in (file.parent for file in ROOT.glob("*/__init__.py")):
        prefix = "recsys" if room.name == "recsys" else f"recsys/{room.name}"
        for file in room.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{prefix}/{file.relative_to(room)}"


def test_it_has_one_top_level_name(wheel):
    tops = {name.split("/")[0] for name in names_of(wheel)}
    assert tops == {"recsys", f"recsys_nightly-{recsys.__version__}.dist-info"}


def test_it_holds_every_file_of_the_rooms(wheel):
    found = {name for name in names_of(wheel) if name.startswith("recsys/")}
    assert found == set(shipped())
    assert {
        "recsys/py.typed",
        "recsys/__init__.pyi",
        "recsys/evaluation/templates/report.html.j2",
        "recsys/serving/pages/app.js",
        "recsys/ingestion/bundled/movies/events.parquet",
        "recsys/ingestion/bundled/init.yaml",
    } <= found


def test_what_it_says_of_itself(wheel):
    folder = f"recsys_nightly-{recsys.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as file:
        said = message_from_bytes(file.read(f"{folder}/METADATA"))
        commands = file.read(f"{folder}/entry_points.txt").decode()
    assert (said["Name"], said["Version"]) == ("recsys-nightly", recsys.__version__)
    assert "recsys = recsys.operations.cli.main:main" in commands
    assert said["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in said.get_all("Classifier")


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """(run, folder): Python with the wheel and third parties, in a folder with names like ours."""
    place = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
            *("--no-deps", "--no-index", "--no-compile", wheel),
        ],
        check=True,
    )
    # The third parties of this environment, without what makes the checkout importable: a folder
    # named in a .pth is a place to look in, and its own .pth files are not read.
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    (site / "third_parties.pth").write_text(sysconfig.get_path("purelib") + "\n")
    folder = place / "mine"
    for name in FOREIGN:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('not yours')\n")

    def run(*words):
        return subprocess.run(
            [python, *words],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NUMBA"))},
            capture_output=True,
            text=True,
            check=False,
        )

    return run, folder


@pytest.mark.slow
def test_a_folder_with_names_like_ours_is_no_obstacle(elsewhere, tiny_model):
    """`python -m` and a notebook put the folder first on the module path."""
    run, folder = elsewhere
    foreign = run("-c", "import features")
    assert "not yours" in foreign.stderr, "the folder is on the module path"
    assert run("-m", "recsys", "demo", "--help").returncode == 0
    made = run("-m", "recsys", "init", "new")
    assert made.returncode == 0, made.stderr
    generated = run(
        *("-m", "recsys", "generate", "--users", "150", "--items", "80", "--days", "12"),
        *("--seed", "1", "--to", "shop"),
    )
    assert generated.returncode == 0, generated.stderr
    with (folder / "shop" / "recsys.yaml").open("a", encoding="utf-8") as config:
        config.write(TINY.format(model=tiny_model))
    night = run("-m", "recsys", "nightly", "-c", "shop/recsys.yaml")
    assert night.returncode in (0, 4), night.stdout + night.stderr
    cell = run("-c", CELL)
    assert cell.returncode == 0, cell.stderr
    count, place = cell.stdout.split()
    assert count == "5"
    assert "/venv/" in place
