"""Earlier names of modules lead to the modules themselves."""

import importlib

import pytest

import recsys


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ("recsys.client", "recsys.serving.client"),
        ("recsys.cli.demo", "recsys.operations.cli.demo"),
        ("recsys.tables.ingest", "recsys.ingestion.tables.ingest"),
    ],
)
def test_an_earlier_name_is_the_module_itself(earlier, now):
    found = importlib.import_module(earlier)
    assert found is importlib.import_module(now)
    assert found.__spec__.name == found.__name__ == now


def test_an_unknown_name_below_is_refused_by_its_own_name():
    with pytest.raises(ModuleNotFoundError, match="no_such_command"):
        importlib.import_module("recsys.cli.no_such_command")
    with pytest.raises(ModuleNotFoundError, match=r"recsys\.nothing"):
        importlib.import_module("recsys.nothing")


def test_the_client_is_one_class():
    from recsys.client import Client

    assert Client is recsys.Client
