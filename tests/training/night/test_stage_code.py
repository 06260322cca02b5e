"""The code that a stage names is all that decides its output: the imports of the making module and of all that
is named are named too, or listed here with the reason why they decide nothing."""

import ast
import importlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import recsys.training
from recsys.storage.stages.identity import _sources

PACKAGE = "recsys."
DECIDES_NOTHING = {
    "recsys.data_schemas": "names and shapes; settings are read",
    "recsys.storage": "where bytes lie, not which",
    "recsys.features.protocols": "types",
    "recsys.features.ranking_context": "a table that signals are written into",
    "recsys.retrieval.fitted_source": "scratch arrays of the search; where sources are fitted, all of their room is named",
    "recsys.features.kinds": "a source declares its features by them; groups, which hold these, name all features",
    "recsys.evaluation.lists": "types",
    "recsys.evaluation.asked_moments": "measures lists that are made",
    "recsys.evaluation.evaluation": "measures lists that are made",
    "recsys.evaluation.saved_lists": "what the main system is called",
    "recsys.evaluation.segments": "measures lists that are made",
    "recsys.encoder.device": "where it is computed",
    "recsys.ingestion.bundled": "data for demonstrations",
    "recsys.evaluation.report_context": "what a page shows",
    "recsys.training.night.night_context": "settings and tools; what is used of them is read",
    "recsys.training.night.inputs": "the data, which are read by a hash of what is known",
    "recsys.training.night.window_plan": "read as the windows; others import `graded` from beside it",
    "recsys.rules": "caps that `read_data` tries; lists name it",
    "recsys.training.night.products": "opens what is read by its key",
    "recsys.training.source_files": "opens what is read by its key",
}


@cache
def _tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(tree):
    """The modules of ours that a module imports, anywhere but for its types."""
    found = set()
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if is_module(inner) else node.module)
    return {name for name in found if name.startswith(PACKAGE)}


@cache
def is_module(name):
    if not name.startswith(PACKAGE):
        return False
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def within(name, parts):
    """Whether a module is one of some modules and packages, or inside one."""
    return any(name == part or name.startswith(part + ".") for part in parts)


class Module:
    """A module that makes an output, read as text."""

    def __init__(self, file):
        self.name = f"recsys.training.night.{file.stem}"
        self.tree = _tree(file)
        self.defined = {
            node.name: node
            for node in self.tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        self.calls = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Stage"
        ]

    def code_of(self, call):
        """The code that a stage names."""
        values = vars(importlib.import_module(self.name))
        given = [k.value for k in call.keywords if k.arg == "code"]
        return tuple(eval(ast.unparse(given[0]), values)) if given else ()

    def makers_imports(self, call):
        """What is imported by all that makes an output: the function given, and what it calls in this module."""
        makes = call.args[2]
        around = next(d for d in self.defined.values() if call in ast.walk(d))
        inner = {d.name: d for d in ast.walk(around) if isinstance(d, ast.FunctionDef)}
        reached, left = set(), [makes]
        names = set()
        while left:
            for node in ast.walk(left.pop()):
                if isinstance(node, ast.Name) and node.id not in names:
                    names.add(node.id)
                    defined = inner.get(node.id) or self.defined.get(node.id)
                    if defined is not None and defined is not around:
                        left.append(defined)
                elif isinstance(node, ast.ImportFrom):
                    reached |= imported(ast.Module([node], []))
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom):
                used = [a for a in node.names if (a.asname or a.name) in names]
                reached |= imported(ast.Module([ast.ImportFrom(node.module, used, 0)], []))
        return reached


def stages():
    """(module, stage's name as written, code, what making it imports)"""
    for file in sorted(Path(next(iter(recsys.training.__path__))).rglob("*.py")):
        module = Module(file)
        for call in module.calls:
            yield (
                module.name,
                ast.unparse(call.args[0]),
                module.code_of(call),
                module.makers_imports(call),
            )


def unnamed(module, code, made_with):
    """Imports of the deciding code that are neither named nor known to decide nothing."""
    found = dict.fromkeys(made_with, module)
    for part in code:
        for file in _sources(part):
            found |= dict.fromkeys(imported(_tree(file)), file.name)
    return {
        name: by
        for name, by in found.items()
        if not within(name, {*code, module}) and not within(name, DECIDES_NOTHING)
    }


@pytest.mark.parametrize(
    ("module", "stage", "code", "made_with"),
    [pytest.param(*found, id=f"{found[1]} in {found[0]}") for found in stages()],
)
def test_all_that_decides_an_output_is_named(module, stage, code, made_with):
    assert unnamed(module, code, made_with) == {}


def test_what_is_not_named_is_found():
    lists = next(found for found in stages() if found[1] == "'lists'")
    module, _, code, made_with = lists
    less = [part for part in code if part != "recsys.training.compared_lists"]
    assert set(unnamed(module, less, made_with)) == {"recsys.training.compared_lists"}
    made_with = {*made_with, "recsys.serving.rates"}
    assert set(unnamed(module, code, made_with)) == {"recsys.serving.rates"}


def test_every_stage_of_a_night_is_looked_at():
    names = {stage for _, stage, *_ in stages()}
    assert {
        "'encoder'",
        "'vectors'",
        "f'source-{name}'",
        "'ranker'",
        "'bundle'",
        "'state'",
    } <= names
    assert len(names) >= 17
