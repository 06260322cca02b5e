"""YAML that would be a burden, not settings: refused before it is built."""

import pytest
import yaml

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.yaml_text import DEPTH, LENGTH, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
BOMBS = {
    "aliases": LAUGHS,
    "itself": "a: &a [*a]",
    "itself in a mapping": "a: &a {b: {c: *a}}",
    "flow levels": "[" * 5_000 + "]" * 5_000,
    "block levels": "".join(" " * n + f"k{n}:\n" for n in range(300)) + " " * 300 + "v",
    "mappings": "{a: " * 5_000 + "1" + "}" * 5_000,
    "length": "a: " + "x" * LENGTH,
    "no such day": "a: 2024-02-30",
    "a number without end": "a: " + "9" * 5_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_named(tmp_path, name):
    with pytest.raises(yaml.YAMLError):
        read_yaml(BOMBS[name])
    file = tmp_path / "recsys.yaml"
    file.write_text(BOMBS[name])
    with pytest.raises(UsageError, match="not valid YAML") as refused:
        load_config(file)
    assert len(str(refused.value)) < 2_000


def test_aliases_of_a_usual_size_are_read():
    text = "base: &base {weight: 1, grade: 2}\ntypes: {view: *base, click: {<<: *base, grade: 3}}"
    assert read_yaml(text)["types"] == {
        "view": {"weight": 1, "grade": 2},
        "click": {"weight": 1, "grade": 3},
    }
    assert read_yaml("[" * DEPTH + "]" * DEPTH) is not None
    assert read_yaml("") is None
