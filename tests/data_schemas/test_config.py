"""recsys.yaml: checked before any work, with the nearest known name."""

from pathlib import Path

import pytest

from recsys.data_schemas.config import FeaturesConfig, load_config, parse_config
from recsys.data_schemas.errors import ExitCode, UsageError
from recsys.data_schemas.meaning import STARS

SMALLEST = {"data": {"items": "data/items.parquet", "events": "data/events.parquet"}}


def wrong(change, *says):
    with pytest.raises(UsageError) as caught:
        parse_config(SMALLEST | change, Path("/x"), "recsys.yaml")
    message = caught.value.render()
    for text in says:
        assert text in message, message
    assert caught.value.code == ExitCode.USAGE
    return message


def test_the_smallest_config(tmp_path):
    file = tmp_path / "recsys.yaml"
    file.write_text("data: {items: data/items.parquet, events: data/events.parquet}\n")
    config = load_config(file)
    assert config.path(config.data.items) == tmp_path / "data" / "items.parquet"
    assert config.workspace_path == tmp_path / "work"
    assert config.data.quarantine_limit == 0.05


def test_a_misspelt_key_names_the_nearest(tmp_path):
    wrong(
        {"budget_minuts": 3}, "unknown setting", "budget_minuts", "did you mean `budget_minutes`?"
    )
    wrong({"encoder": {"batchsize": 3}}, "encoder.batchsize", "did you mean `batch_size`?")
    wrong({"xyzzy": 1}, "one of budget_minutes, clock, data")


def test_a_missing_key_says_what_to_write():
    with pytest.raises(UsageError) as caught:
        parse_config({"data": {"items": "x"}}, Path("/x"))
    assert "data.events" in caught.value.render()
    assert "recsys init" in caught.value.render()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"budget_minutes": 0}, "budget_minutes"),
        ({"clock": "utc"}, "clock"),
        ({"name": "a b"}, "name"),
        ({"data": SMALLEST["data"] | {"quarantine_limit": 2}}, "data.quarantine_limit"),
        ({"sources": {"depth": 1, "candidates": 200}}, "(whole file)"),
        ({"events": {"types": {"buy": {"grade": 99}}}}, "events.types.buy.grade"),
    ],
)
def test_wrong_values_name_the_field(change, field):
    wrong(change, "a setting has a wrong value", f"recsys.yaml: {field}")


def test_several_problems_are_counted():
    assert "(and 1 more)" in wrong({"seed": "x", "clock": "y"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: [", "not valid YAML"),
        ("", "holds no settings"),
        ("- 1\n", "holds no settings"),
    ],
)
def test_files_that_are_no_config(tmp_path, text, says):
    file = tmp_path / "recsys.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        load_config(file)
    assert "recsys.yaml" in caught.value.render()


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(UsageError, match="no config file here"):
        load_config(tmp_path / "recsys.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(tmp_path)


def test_a_model_beside_the_file_is_found_from_anywhere(tmp_path):
    (tmp_path / "mine").mkdir()
    given = {"encoder": {"model": "mine"}}
    assert parse_config(SMALLEST | given, tmp_path).encoder.model == str(tmp_path / "mine")
    assert parse_config(SMALLEST | given, tmp_path / "mine").encoder.model == "mine"


def test_own_types_extend_or_replace_the_defaults():
    types = {"types": {"buy": {"weight": 7, "grade": 3}}}
    extended = parse_config(SMALLEST | {"events": types}, Path("/x")).events.meaning()
    assert extended.types["buy"] == (7, 3)
    assert extended.types["click"] == (2, 1)
    replaced = parse_config(SMALLEST | {"events": types | {"replace_defaults": True}}, Path("/x"))
    assert set(replaced.events.meaning().types) == {"buy"}


def test_what_is_a_rating_is_declared_or_named():
    def ratings(**events):
        return dict(
            parse_config(SMALLEST | {"events": events}, Path("/x")).events.meaning().ratings
        )

    assert ratings() == dict.fromkeys(("rating", "rate", "review", "stars"), STARS)
    types = {"thumb": {"scale": [-1, 1]}, "rating": {"rating": False}, "mark": {"rating": True}}
    found = ratings(types=types)
    assert (found["thumb"], found["mark"], "rating" in found) == ((-1.0, 1.0), STARS, False)
    bought = {"purchase": {"weight": 5, "grade": 3}}
    assert ratings(types=bought, replace_defaults=True) == {}
    own = {"rating": {"rating": True}}
    assert ratings(types=own, replace_defaults=True) == {"rating": STARS}


@pytest.mark.parametrize(
    "declared", [{"scale": [5, 1]}, {"scale": [-3, 0]}, {"scale": [1, 5], "rating": False}]
)
def test_a_scale_that_is_none_is_refused(declared):
    wrong({"events": {"types": {"mark": declared}}}, "events.types.mark", "scale")


WORDS = [
    "on",
    "off",
    "yes",
    "no",
    "y",
    "n",
    "null",
    "~",
    "1",
    "1.5",
    "0o7",
    "2024-01-01",
    "true",
    "<<x",
]


def test_a_key_is_the_text_that_stands_there(tmp_path):
    file = tmp_path / "recsys.yaml"
    types = "".join(f"    {word}: {{weight: 2, grade: 1}}\n" for word in WORDS)
    file.write_text(
        "data: {items: i.parquet, events: e.parquet}\n"
        f"events:\n  types:\n{types}"
        "notify: {webhook: 'http://x', on: [failed]}\n"
        "serving: {caps: {yes: 1}}\nencoder: {compile: no}\nranker: {debias: on}\n"
    )
    config = load_config(file)
    assert list(config.events.types) == WORDS
    assert config.notify.on == ("failed",)
    assert config.serving.caps == {"yes": 1}
    assert (config.encoder.compile, config.ranker.debias) == (False, True)


def test_a_number_for_a_name_says_to_quote_it():
    assert "quote" in wrong({"name": 2024}, "recsys.yaml: name", "2024")


def test_the_environment_is_read_over_the_file(tmp_path, monkeypatch):
    file = tmp_path / "recsys.yaml"
    file.write_text("data: {items: i.parquet, events: e.parquet}\nserving: {workers: 2}\n")
    monkeypatch.setenv("RECSYS__SERVING__LOG", "postgresql://user@host/db")
    monkeypatch.setenv("RECSYS__SERVING__CORS_ORIGINS", "[https://a.example]")
    monkeypatch.setenv("RECSYS__SEED", "11")
    config = load_config(file)
    assert (config.serving.workers, config.seed) == (2, 11)
    assert config.serving.log == "postgresql://user@host/db"
    assert config.serving.cors_origins == ("https://a.example",)
    monkeypatch.setenv("RECSYS__SERVING__WORKRES", "3")
    with pytest.raises(UsageError, match="workres"):
        load_config(file)
    monkeypatch.delenv("RECSYS__SERVING__WORKRES")
    monkeypatch.setenv("RECSYS__SEED__X", "3")
    with pytest.raises(UsageError, match="no section"):
        load_config(file)


def test_an_unknown_key_comes_before_what_is_missing():
    wrong(
        {"data": {"articles": "a", "events": "b"}}, "unknown setting (and 1 more)", "data.articles"
    )


def test_a_retired_setting_is_let_go_with_a_note(tmp_path):
    file = tmp_path / "recsys.yaml"
    file.write_text("data: {items: a, events: b}\nfeatures: {bucket: day, history_length: 30}\n")
    config = load_config(file)
    assert config.features == FeaturesConfig(bucket="day")
    assert config.notes == (
        f"{file}: the setting `features.history_length` has no effect, remove it"
        " (nothing reads it: every model has a history length of its own)",
    )
    assert parse_config(SMALLEST, Path("/x")).notes == ()
    wrong({"features": {"history_lenght": 30}}, "unknown setting", "features.history_lenght")


def test_a_kept_section_with_a_retired_setting_is_read():
    kept = FeaturesConfig().model_dump(mode="json") | {"history_length": 50}
    assert FeaturesConfig.model_validate(kept) == FeaturesConfig()
