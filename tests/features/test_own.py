"""Features of a user's own: sound ones pass, the others are refused with the first wrong row."""

from dataclasses import dataclass

import numpy as np
import pytest

from recsys.data_schemas.config import FeaturesConfig
from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.features.features_check import check, require_sound
from recsys.features.future_check import FutureUse
from recsys.features.interactions import DAY
from recsys.features.kinds.kind import Feature, HistoryFeature, shared
from recsys.features.kinds.window_count import WindowCount
from recsys.features.random_world import TYPES, item_table
from recsys.operations.cli.main import main


@dataclass(frozen=True)
class TitleLength(HistoryFeature):
    @property
    def column(self):
        return "own.title_length"

    def online(self, moment):
        return np.array([len(moment.catalogue.title(i)) for i in moment.items], np.float32)


@dataclass(frozen=True)
class Skewed(Feature):
    """Batch forgets that the history ends at now."""

    @property
    def column(self):
        return "own.skewed"

    def online(self, moment):
        return shared(len(moment.history.item))

    def batch(self, rows, inputs):
        whole = np.bincount(inputs.interactions.user, minlength=99)
        return rows.per_row(np.where(rows.user >= 0, whole[rows.user], 0)).astype(np.float32)


@dataclass(frozen=True)
class Failing(HistoryFeature):
    @property
    def column(self):
        return "own.failing"

    def online(self, moment):
        raise ZeroDivisionError("oh")


def test_a_sound_feature_passes():
    assert check([TitleLength()], worlds=1) == []


def test_the_first_differing_row_is_shown():
    (found,) = check([TitleLength(), Skewed()], worlds=1)
    assert found.column == "own.skewed"
    assert "its readings differ: user user-" in found.problem
    assert "item item-" in found.problem
    assert "batch " in found.problem
    assert "online " in found.problem


def test_a_feature_that_fails_is_named_and_others_are_still_tried():
    found = check([Failing(), FutureUse(), TitleLength()], worlds=1)
    assert {f.column for f in found} == {"own.failing", "planted.future"}
    assert "ZeroDivisionError: oh" in found[0].problem


@pytest.mark.parametrize("name", ["Skewed", "Failing"])
def test_a_night_refuses_a_feature_that_is_not_sound(name):
    config = FeaturesConfig(own=(f"{__name__}:TitleLength", f"{__name__}:{name}"))
    with pytest.raises(UsageError) as caught:
        require_sound(config, types=TYPES)
    assert f"own.{name.lower()}" in caught.value.render()


def test_a_night_takes_sound_features():
    require_sound(FeaturesConfig(own=(f"{__name__}:TitleLength",)), types=TYPES)


def test_a_night_refuses_a_window_shorter_than_a_bucket_at_once():
    with pytest.raises(UsageError, match="not a whole number of buckets"):
        require_sound(FeaturesConfig(bucket="day", windows=("6h",)), types=TYPES)


def test_own_features_join_the_default_set():
    config = FeaturesConfig(own=(f"{__name__}:TitleLength",))
    features = FeatureSet.default(Catalogue.from_table(item_table(3)), TYPES, (), config)
    assert features.columns[-1] == "own.title_length"
    assert FeatureSet.from_json(features.to_json()).features[-1] == TitleLength()


def tag_clicks():
    return WindowCount("tag", "click", 7 * DAY)


def test_a_factory_declares_a_built_in_kind_with_arguments_of_ones_own():
    config = FeaturesConfig(own=(f"{__name__}:tag_clicks",))
    features = FeatureSet.default(Catalogue.from_table(item_table(3)), TYPES, (), config)
    assert features.columns[-1] == "count.tag.click.7d"
    assert FeatureSet.from_json(features.to_json()).features[-1] == tag_clicks()


# -- the command ------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(own: str = ""):
        data = "data: {items: items.parquet, events: events.parquet}\n"
        features = f"features: {{windows: [7d], own: [{own}]}}\n"
        (tmp_path / "recsys.yaml").write_text(data + features)
        return str(tmp_path / "recsys.yaml")

    return write


def test_check_passes_the_built_in_features(config, capsys):
    assert main(["features", "check", "-c", config(), "--worlds", "1"]) == 0
    assert "read the same in batch and online" in capsys.readouterr().out


def test_check_refuses_a_skewed_feature(config, tmp_path, capsys):
    (tmp_path / "mine_skewed.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from recsys.features.kinds.kind import Feature, shared\n"
        "@dataclass(frozen=True)\n"
        "class Skewed(Feature):\n"
        "    column = 'own.skewed'\n"
        "    def online(self, moment): return shared(1)\n"
        "    def batch(self, rows, inputs): return np.zeros(len(rows), np.float32)\n"
    )
    path = config("mine_skewed:Skewed")
    assert main(["features", "check", "-c", path, "--worlds", "1"]) == 4
    out = capsys.readouterr().out
    assert "REFUSED  own.skewed" in out
    assert "batch 0, online 1" in out


def test_check_says_when_a_class_cannot_be_loaded(config, capsys):
    assert main(["features", "check", "-c", config("nowhere:Nothing")]) == 2
    assert "cannot be loaded" in capsys.readouterr().err


def test_list_says_what_is_planned_before_the_first_night(config, capsys):
    assert main(["features", "list", "-c", config()]) == 0
    out = capsys.readouterr().out
    assert "no champion yet" in out
    assert "count.item.any.7d" in out
    assert "WindowCount" in out
