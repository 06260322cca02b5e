"""The notebooks run as they are, cell by cell; what ends a cell is drawn as a notebook draws it."""

import ast
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("default")
LESS = (
    "budget_minutes=5",
    'budget_minutes=5, settings={"encoder": {"head_steps": 20, "max_steps": 4, "max_tokens": 16}, '
    '"windows": {"cuts": 1}, "sources": {"tune": False, "use": ["item_item"]}, "ranker": {"trees": 10}}',
)
"""The fit of the quickstart, and what it is given here."""


def cells_of(name):
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = notebook["cells"]
    assert all(not cell.get("outputs") for cell in cells), "outputs are not kept in the repository"
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(cells):
    """What the last expression of each cell draws, by cell."""
    names, drawn = {"__name__": "__main__"}, []
    for number, text in enumerate(cells):
        tree = ast.parse(text)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        shown = None
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        draw = getattr(shown, "_repr_html_", lambda shown=shown: repr(shown))
        drawn.append(draw())
    return names, drawn


def test_every_notebook_is_run_here():
    assert {file.stem for file in EXAMPLES.glob("*.ipynb")} == {
        "quickstart",
        "own_model",
        "cold_items",
    }


def test_own_model():
    names, drawn = run(cells_of("own_model"))
    assert "first_place" in drawn[-2]
    assert set(names["report"].to_frame()["system"]) == {"best rated", "popular", "ALS"}


@pytest.mark.slow
def test_cold_items():
    names, _ = run(cells_of("cold_items"))
    frame = names["report"].to_frame().query("metric == 'recall@20'").set_index("system")
    assert frame.loc["text", "value"] > 0
    assert frame.loc["neighbours", "value"] == frame.loc["popular", "value"] == 0


@pytest.mark.slow
def test_quickstart():
    cells = cells_of("quickstart")
    assert sum(LESS[0] in cell for cell in cells) == 1
    names, drawn = run([cell.replace(*LESS) for cell in cells])
    assert "whole" in drawn[4]
    assert len(names["mine"]) == 5
    assert names["why"]["because"].str.len().min() > 10
