"""The examples of the public docstrings run as written, and every public part says what it takes."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import recsys
from recsys.operations.library import single_models
from recsys.operations.library.adapted_models import AdaptedModel

MODULES = [
    *(f"recsys.operations.library.{name}" for name in (
        "dataset", "frames", "measures", "evaluating", "recommending", "single_models", "conformance",
    )),
    "recsys.retrieval.own_source",
]  # fmt: skip
PUBLIC = [
    recsys.Dataset,
    recsys.Recommender,
    recsys.EvaluationReport,
    recsys.evaluate,
    recsys.load,
    recsys.per_list,
    recsys.OwnSource,
    *(getattr(recsys.models, name) for name in recsys.models.__all__),
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, data, request):
    found = importlib.import_module(module)
    text = Path(found.__file__).read_text(encoding="utf-8")
    fitted = {"model": request.getfixturevalue("shop")[0]} if "    >>> recs = model" in text else {}
    tests = doctest.DocTestFinder(exclude_empty=True).find(
        found, module, globs={**vars(found), "data": data, **fitted}
    )
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_there_are_examples():
    with_one = [part for part in PUBLIC if ">>>" in (inspect.getdoc(part) or "")]
    assert {recsys.Dataset, recsys.Recommender, recsys.evaluate, recsys.OwnSource} <= set(with_one)


@pytest.mark.parametrize("part", PUBLIC, ids=lambda part: part.__name__)
def test_every_public_function_names_its_arguments(part):
    functions = (
        [part]
        if inspect.isfunction(part)
        else [f for n, f in inspect.getmembers(part, inspect.isfunction) if not n.startswith("_")]
    )
    for function in functions:
        text = inspect.getdoc(function)
        assert text, function
        missing = [
            name
            for name in inspect.signature(function).parameters
            if name != "self" and name not in text
        ]
        assert not missing or function.__module__.startswith("recsys.retrieval"), (
            function,
            missing,
        )


def test_a_model_is_named_as_it_is_reached():
    models = {name: getattr(recsys.models, name) for name in recsys.models.__all__}
    adapters = {n for n, model in models.items() if issubclass(model, AdaptedModel)}
    assert adapters == {"LensKitSource", "RecToolsSource"}
    for name, model in models.items():
        if name not in adapters:
            assert issubclass(model, single_models.SingleModel)
            assert model.label == name
