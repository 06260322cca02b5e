"""The settings as a JSON schema and as commented lines: all of them, as they are."""

import re

import jsonschema
import pytest

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.config_file import every_setting, json_schema, section_of
from recsys.data_schemas.yaml_text import read_yaml
from recsys.ingestion.tables.init_folder import first_config

DATA = {"items": "data/items.parquet", "events": "data/events.parquet"}


def uncommented(text):
    """Settings and names of sections without their `# `; what explains them stays."""
    return re.sub(r"^# ( *\w+:.*)$", r"\1", text, flags=re.M)


def keys(model, lead=""):
    for name, info in model.model_fields.items():
        inner = section_of(info)
        yield from keys(inner, f"{lead}{name}.") if inner else [f"{lead}{name}"]


def leaves(raw, lead=""):
    for name, value in raw.items():
        yield from (
            leaves(value, f"{lead}{name}.")
            if isinstance(value, dict) and value
            else [f"{lead}{name}"]
        )


def test_every_line_is_a_setting_at_its_default():
    raw = read_yaml(uncommented(every_setting(frozenset({"data"}))))
    assert RecsysConfig(data=DATA, **raw) == RecsysConfig(data=DATA)
    assert set(leaves(raw)) == {key for key in keys(RecsysConfig) if not key.startswith("data.")}


def test_a_new_file_has_every_section_once_and_is_valid_as_it_is():
    text = first_config()
    assert text.startswith("# yaml-language-server: $schema=recsys.schema.json\n")
    for section in RecsysConfig.model_fields:
        assert len(re.findall(rf"^(?:# )?{section}:", text, re.M)) == 1, section
    raw = read_yaml(text)
    assert RecsysConfig(**raw).events.meaning() == RecsysConfig(data=DATA).events.meaning()
    jsonschema.validate(raw, json_schema())
    assert "keys.json" not in text


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"data": DATA, "gate": {"margn": 0.1}}, "margn"),
        ({"data": DATA, "budget_minutes": 0}, "0"),
        ({"data": DATA, "features": {"bucket": "week"}}, "week"),
        ({}, "data"),
    ],
)
def test_the_schema_refuses_what_the_file_s_reader_refuses(wrong, where):
    with pytest.raises(jsonschema.ValidationError, match=where):
        jsonschema.validate(wrong, json_schema())
