"""Small sound logs, the leaks to plant in them, and the way from tables to what the checks read."""

import importlib.util
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas import columns as c
from recsys.data_schemas.meaning import DEFAULT_TYPES, EventMeaning
from recsys.evaluation.data_leaks.logged_data import NEVER, LoggedData
from recsys.features.catalogue import Catalogue
from recsys.features.impressions import Impressions
from recsys.features.interactions import Interactions
from recsys.features.ragged import offsets_of
from recsys.features.user_table import UserTable
from recsys.ingestion.bundled import lay_out_movies
from recsys.ingestion.generator import generate, settings_of
from recsys.storage.progress import Reporter

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "planted_leaks.py"


def _script():
    spec = importlib.util.spec_from_file_location("planted_leaks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def planted():
    """The script that plants leaks."""
    return _script()


@pytest.fixture(scope="session")
def shop(planted):
    """A generated log with lists and attributes of users."""
    with tempfile.TemporaryDirectory() as name:
        settings = settings_of(users=900, items=600, days=30, seed=41)
        generate(settings, Path(name) / "log", Reporter(quiet=True))
        return planted.read_log(Path(name) / "log" / "data")


@pytest.fixture(scope="session")
def films(planted):
    """Stars of some users of the bundled films."""
    with tempfile.TemporaryDirectory() as name:
        lay_out_movies(Path(name))
        log = planted.read_log(Path(name) / "data")
    users = sorted(log.events[c.USER_ID].unique())[::3]
    events = log.events[log.events[c.USER_ID].isin(users)]
    items = log.items[log.items[c.ITEM_ID].isin(events[c.ITEM_ID])]
    return planted.replace(log, items=items, events=events)


@pytest.fixture(scope="session")
def logged():
    """Turns tables into what a night would have read of them."""
    return _logged


def _logged(log) -> LoggedData:
    events = log.events[log.events[c.ITEM_ID].isin(log.items[c.ITEM_ID])]
    events = events.sort_values(c.TIMESTAMP, kind="stable").reset_index(drop=True)
    catalogue = Catalogue.from_table(_arrow(log.items))
    time = _microseconds(events[c.TIMESTAMP])
    user, names = _numbered(events[c.USER_ID])
    kinds = list(dict.fromkeys(events[c.EVENT_TYPE]))
    kind = np.array([kinds.index(x) for x in events[c.EVENT_TYPE]], np.int16)
    value = np.full(len(events), np.nan, np.float32)
    if c.VALUE in events:
        value = events[c.VALUE].to_numpy(np.float32)
    meaning = EventMeaning({**DEFAULT_TYPES, "rating": (1.0, 0), "comment": (3.0, 2)})
    weight, grade = meaning.of(kinds, kind, value)
    item = catalogue.indices_of(list(events[c.ITEM_ID]))
    interactions = Interactions(
        user, item, kind, time, value, weight, grade, np.arange(len(time)), names, tuple(kinds),
        catalogue.n_items,
    )  # fmt: skip
    users = log.users
    table = None if users is None else _arrow(users)
    ids = None
    if c.EVENT_ID in events:
        texts = events[c.EVENT_ID].map(str)

        def ids(rows):
            return texts.iloc[rows].tolist()

    return LoggedData(
        interactions,
        catalogue,
        None if table is None else UserTable.from_table(table),
        *(None, ids, None)
        if log.impressions is None
        else _shown(log, events, names, catalogue, ids),
    )


def _arrow(frame):
    with warnings.catch_warnings():
        # Arrow reads times with a zone in a way that pandas is about to give up.
        warnings.simplefilter("ignore")
        return pa.Table.from_pandas(frame, preserve_index=False)


def _shown(log, events, names, catalogue, ids):
    lists = log.impressions
    time = _microseconds(lists[c.TIMESTAMP])
    sizes = [len(items) for items in lists[c.ITEM_IDS]]
    place = {name: number for number, name in enumerate(names)}
    shown = Impressions.of(
        offsets_of(sizes),
        catalogue.indices_of([item for items in lists[c.ITEM_IDS] for item in items]),
        time,
        user=np.array([place.get(user, -1) for user in lists[c.USER_ID]]),
        propensity=np.concatenate(list(lists[c.PROPENSITIES])).astype(np.float32),
    )
    at = dict(zip(lists[c.IMPRESSION_ID], time.tolist(), strict=True))
    named = [at.get(name, NEVER) for name in events[c.IMPRESSION_ID]]
    return shown, ids, np.array(named, np.int64)


def _microseconds(column):
    return column.dt.as_unit("us").astype("int64").to_numpy()


def _numbered(column):
    names = np.array(list(dict.fromkeys(column)), object)
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[name] for name in column], np.int32), names
