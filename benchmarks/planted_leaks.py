"""Leaks and poison planted in sound logs: which kinds are found, and how often a sound log is accused.

    python benchmarks/planted_leaks.py [--path FOLDER ...] [--seeds 2] [--sound 20] [--only KIND ...]

Every kind is planted in the bundled movies, in generated logs and in the tables of each FOLDER, by the tables a caller would hand in,
ingested as a night does and looked at by the checks of a night. The seeds are not those the checks were
written on. Printed: for every kind how often something was found, what the outcome was and which check
found it; then the findings on sound logs, where each one is a false alarm; then what the checks cost.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import load_config
from recsys.evaluation.data_leaks.examine import examine
from recsys.evaluation.report_context import Check
from recsys.ingestion.bundled import lay_out_movies
from recsys.ingestion.generator import generate, settings_of
from recsys.ingestion.tables.ingest import ingest
from recsys.ingestion.tables.load import load_tables
from recsys.storage.progress import Reporter
from recsys.training.night.data_leaks import logged_data

POSITIVE_KINDS = ("click", "comment", "share", "purchase")


@dataclass(frozen=True)
class RawLog:
    """The tables a caller hands in."""

    items: pd.DataFrame
    events: pd.DataFrame
    impressions: pd.DataFrame | None = None
    users: pd.DataFrame | None = None
    late: float = 0.85
    """Share of the events before the moment that a planted leak knows beyond."""

    @property
    def cut(self) -> pd.Timestamp:
        """The moment that planted leaks know beyond."""
        return self.events[c.TIMESTAMP].quantile(self.late)

    @property
    def positive(self) -> pd.Series:
        kind, value = self.events[c.EVENT_TYPE], self.events.get(c.VALUE)
        liked = kind.isin(POSITIVE_KINDS)
        return liked if value is None else liked | (value >= 4)

    @property
    def later(self) -> pd.DataFrame:
        return self.events[self.events[c.TIMESTAMP] >= self.cut]

    def with_events(self, **columns: object) -> "RawLog":
        return replace(self, events=self.events.assign(**columns))

    def with_items(self, **columns: object) -> "RawLog":
        return replace(self, items=self.items.assign(**columns))

    def with_users(self, **columns: pd.Series) -> "RawLog":
        """Columns by user id, of the users table or of one made for them."""
        users = self.users
        if users is None:
            users = pd.DataFrame({c.USER_ID: self.events[c.USER_ID].unique()})
        ids = users[c.USER_ID]
        return replace(self, users=users.assign(**{n: ids.map(v) for n, v in columns.items()}))

    def write(self, folder: Path) -> Path:
        """The tables and a recsys.yaml in a folder; path of the YAML."""
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"items": self.items, "events": self.events}
        tables |= {"impressions": self.impressions, "users": self.users}
        given = {name: table for name, table in tables.items() if table is not None}
        for name, table in given.items():
            table.to_parquet(folder / f"{name}.parquet", index=False)
        said = ", ".join(f"{name}: {name}.parquet" for name in given)
        (folder / "recsys.yaml").write_text(f"data: {{{said}}}\n", encoding="utf-8")
        return folder / "recsys.yaml"


Plant = Callable[[RawLog, np.random.Generator], RawLog | None]
"""Gives the log with the leak in it; None where the log has no place for it."""


def read_log(data: Path) -> RawLog:
    """Tables of a folder that holds `items`, `events` and what else there is."""

    def table(name: str) -> pd.DataFrame | None:
        found = [p for p in (data / f"{name}.parquet", data / name) if p.exists()]
        if not found:
            return None
        frame = pd.read_parquet(found[0])
        return frame.drop(columns=[x for x in ("day",) if x in frame])

    items, events = table("items"), table("events")
    if items is None or events is None:
        raise SystemExit(f"{data}: expected items.parquet and events.parquet")
    return RawLog(items, events, table("impressions"), table("users"))


def generated(seed: int) -> RawLog:
    """A generated log of a size drawn by its seed."""
    with tempfile.TemporaryDirectory() as name:
        settings = settings_of(**sizes_of(seed), seed=seed)
        generate(settings, Path(name) / "log", Reporter(quiet=True))
        return read_log(Path(name) / "log" / "data")


# -- who ------------------------------------------------------------------------------------------


def twins(log: RawLog, draw: np.random.Generator, kept: float = 1.0) -> RawLog:
    """A third of the later users have an account with the same history two years earlier."""
    users = log.later[c.USER_ID].unique()
    chosen = draw.choice(users, max(5, len(users) // 3), replace=False)
    copy = log.events[log.events[c.USER_ID].isin(chosen)]
    copy = copy[draw.random(len(copy)) < kept]
    copy = copy.assign(
        **{
            c.USER_ID: "x" + copy[c.USER_ID],
            c.TIMESTAMP: copy[c.TIMESTAMP] - pd.Timedelta(days=730),
        }
    )
    if c.EVENT_ID in copy:
        copy = copy.assign(**{c.EVENT_ID: "x" + copy[c.EVENT_ID]})
    if c.IMPRESSION_ID in copy:
        copy = copy.assign(**{c.IMPRESSION_ID: None})
    return replace(log, events=pd.concat([copy, log.events]))


def rough_twins(log: RawLog, draw: np.random.Generator) -> RawLog:
    """The same with a fifth of the events left out."""
    return twins(log, draw, 0.8)


def _named(log: RawLog, events: pd.DataFrame, draw: np.random.Generator) -> pd.Series:
    """By item: one opaque word for each of its users among these events."""
    users = events[c.USER_ID].unique()
    words = dict(zip(users, draw.permutation(len(users)), strict=True))
    word = "club" + events[c.USER_ID].map(words).astype(str)
    return word.groupby(events[c.ITEM_ID]).agg(lambda names: sorted(set(names)))


def tags_name_raters(log: RawLog, draw: np.random.Generator) -> RawLog:
    """Every item is tagged with a word for each who liked it."""
    return _tagged(log, _named(log, log.events[log.positive], draw))


def tags_name_later_raters(log: RawLog, draw: np.random.Generator) -> RawLog:
    """Every item is tagged with a word for each who is going to like it."""
    liked = log.events[log.positive]
    return _tagged(log, _named(log, liked[liked[c.TIMESTAMP] >= log.cut], draw))


def _tagged(log: RawLog, words: pd.Series) -> RawLog:
    more = log.items[c.ITEM_ID].map(words)
    both = [
        [*(old if old is not None else ()), *(new if isinstance(new, list) else ())]
        for old, new in zip(log.items[c.TAGS], more, strict=True)
    ]
    return log.with_items(**{c.TAGS: both})


def text_names_raters(log: RawLog, draw: np.random.Generator) -> RawLog:
    """The description ends with the ids of those who liked the item."""
    liked = log.events[log.positive]
    said = liked[c.USER_ID].groupby(liked[c.ITEM_ID]).agg(lambda u: " ".join(sorted(set(u))[:40]))
    more = log.items[c.ITEM_ID].map(said).fillna("")
    return log.with_items(**{c.DESCRIPTION: log.items[c.DESCRIPTION].fillna("") + " " + more})


# -- when -----------------------------------------------------------------------------------------


def created_first(log: RawLog, draw: np.random.Generator) -> RawLog:
    """`created_at` is the item's first event."""
    first = log.events.groupby(c.ITEM_ID)[c.TIMESTAMP].min()
    return log.with_items(**{c.CREATED_AT: log.items[c.ITEM_ID].map(first)})


def created_last(log: RawLog, draw: np.random.Generator) -> RawLog:
    """`created_at` is the item's last event."""
    last = log.events.groupby(c.ITEM_ID)[c.TIMESTAMP].max()
    return log.with_items(**{c.CREATED_AT: log.items[c.ITEM_ID].map(last)})


def positives_shifted(log: RawLog, draw: np.random.Generator, days: float = -1.0) -> RawLog | None:
    """What was liked is dated a day too early."""
    liked = log.positive
    if liked.all():
        return None
    moved = pd.to_timedelta(np.where(liked, days, 0.0), unit="D")
    return log.with_events(**{c.TIMESTAMP: log.events[c.TIMESTAMP] + moved})


def positives_shifted_late(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """What was liked in the last third of the log is dated a day too early."""
    late = log.events[c.TIMESTAMP] >= log.events[c.TIMESTAMP].quantile(0.66)
    liked = log.positive
    if liked.all():
        return None
    moved = pd.to_timedelta(np.where(liked & late, -1.0, 0.0), unit="D")
    return log.with_events(**{c.TIMESTAMP: log.events[c.TIMESTAMP] + moved})


def seconds_encode(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """What was liked has an even second, the rest an odd one."""
    liked = log.positive
    if liked.all():
        return None
    even = log.events[c.TIMESTAMP].dt.floor("2s")
    return log.with_events(**{c.TIMESTAMP: even + pd.to_timedelta(np.where(liked, 0, 1), unit="s")})


# -- how often ------------------------------------------------------------------------------------


def _sales(log: RawLog, events: pd.DataFrame) -> pd.Series:
    return log.items[c.ITEM_ID].map(events.groupby(c.ITEM_ID).size()).fillna(0)


def sales_later(log: RawLog, draw: np.random.Generator) -> RawLog:
    """An item's attribute is the number of its later events."""
    return log.with_items(stock=_sales(log, log.later))


def positives_later(log: RawLog, draw: np.random.Generator) -> RawLog:
    """An item's attribute is how many are going to like it."""
    liked = log.events[log.positive]
    return log.with_items(stock=_sales(log, liked[liked[c.TIMESTAMP] >= log.cut]))


def sales_later_noisy(log: RawLog, draw: np.random.Generator) -> RawLog:
    """The same, blurred by a third."""
    blur = draw.lognormal(0.0, 0.3, len(log.items))
    return log.with_items(stock=(_sales(log, log.later) + 0.3) * blur)


def later_class(log: RawLog, draw: np.random.Generator) -> RawLog:
    """An item's class is a tenth of the order by later sales."""
    rank = _sales(log, log.later).rank(pct=True, method="average")
    return log.with_items(shelf=(np.ceil(rank * 10).astype(int)).map("shelf {}".format))


def later_best(log: RawLog, draw: np.random.Generator) -> RawLog:
    """A flag tells the tenth of the items that will sell best."""
    sales = _sales(log, log.later) + draw.random(len(log.items)) * 1e-3
    return log.with_items(star=(sales > sales.quantile(0.9)))


def sales_all(log: RawLog, draw: np.random.Generator) -> RawLog:
    """An item's attribute is the number of all its events."""
    return log.with_items(stock=_sales(log, log.events))


def positives_all(log: RawLog, draw: np.random.Generator) -> RawLog:
    """An item's attribute is how many have ever liked it."""
    return log.with_items(stock=_sales(log, log.events[log.positive]))


def items_in_order_of_sales(log: RawLog, draw: np.random.Generator) -> RawLog:
    """The items' file is in the order of later sales."""
    order = np.argsort(-_sales(log, log.later).to_numpy(), kind="stable")
    return replace(log, items=log.items.iloc[order])


def available_if_sold(log: RawLog, draw: np.random.Generator) -> RawLog:
    """Only what is going to be sold is said to be available."""
    return log.with_items(**{c.AVAILABLE: _sales(log, log.later) > 0})


def text_tells_sales(log: RawLog, draw: np.random.Generator) -> RawLog:
    """The description ends with the number of later sales."""
    said = " sold " + _sales(log, log.later).astype(int).astype(str)
    return log.with_items(**{c.DESCRIPTION: log.items[c.DESCRIPTION].fillna("") + said})


def stars_all(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """An item's attribute is the mean of all stars it ever got."""
    if c.VALUE not in log.events:
        return None
    mean = log.events.groupby(c.ITEM_ID)[c.VALUE].mean()
    return log.with_items(stars=log.items[c.ITEM_ID].map(mean))


# -- of users -------------------------------------------------------------------------------------


def user_later_count(log: RawLog, draw: np.random.Generator) -> RawLog:
    """A user's attribute is how many items they are going to like."""
    liked = log.events[log.positive]
    count = liked[liked[c.TIMESTAMP] >= log.cut].groupby(c.USER_ID).size()
    everyone = log.events[c.USER_ID].unique()
    return log.with_users(loyalty=count.reindex(everyone, fill_value=0).astype(float))


def _favourite(log: RawLog, events: pd.DataFrame) -> pd.Series:
    told = events.merge(log.items[[c.ITEM_ID, c.CATEGORY]], on=c.ITEM_ID)
    told = told.dropna(subset=[c.CATEGORY])
    return told.groupby(c.USER_ID)[c.CATEGORY].agg(lambda x: x.value_counts().index[0])


def user_later_favourite(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """A user's attribute is the category they are going to like most."""
    if log.items[c.CATEGORY].nunique() < 2:
        return None
    liked = log.events[log.positive]
    names = _favourite(log, liked[liked[c.TIMESTAMP] >= log.cut])
    return log.with_users(segment="s" + names)


def user_next_item(log: RawLog, draw: np.random.Generator) -> RawLog:
    """A user's attribute is the item they are going to like first."""
    liked = log.events[log.positive]
    later = liked[liked[c.TIMESTAMP] >= log.cut].sort_values(c.TIMESTAMP, kind="stable")
    first = later.groupby(c.USER_ID)[c.ITEM_ID].first()
    known = set(first.value_counts().index[:900])
    return log.with_users(interest=first[first.isin(known)])


# -- rows and their ids ---------------------------------------------------------------------------


def event_ids_encode(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """The id of what was liked ends in an even digit, that of the rest in an odd one."""
    liked = log.positive.to_numpy()
    if liked.all():
        return None
    digit = draw.integers(0, 5, len(liked)) * 2 + np.where(liked, 0, 1)
    random = pd.Series(draw.permutation(len(liked)), log.events.index).astype(str)
    return log.with_events(
        **{c.EVENT_ID: "e" + random + pd.Series(digit, log.events.index).astype(str)}
    )


def event_ids_sorted(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """Events are numbered with what was liked first."""
    liked = log.positive.to_numpy()
    if liked.all():
        return None
    number = np.empty(len(liked), np.int64)
    number[np.argsort(~liked, kind="stable")] = np.arange(len(liked))
    return log.with_events(
        **{c.EVENT_ID: pd.Series(number, log.events.index).map("e{:07d}".format)}
    )


def file_order_encodes(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """Times are whole minutes, and within a minute what was liked stands first."""
    liked = log.positive.to_numpy()
    if liked.all():
        return None
    rough = log.with_events(**{c.TIMESTAMP: log.events[c.TIMESTAMP].dt.floor("min")})
    return replace(rough, events=rough.events.iloc[np.argsort(~liked, kind="stable")])


def permuted_by_month(log: RawLog, draw: np.random.Generator) -> RawLog:
    """The items of the events are shuffled within each month."""
    month = log.events[c.TIMESTAMP].dt.strftime("%Y-%m")
    mixed = log.events.groupby(month)[c.ITEM_ID].transform(lambda x: draw.permutation(x.to_numpy()))
    return log.with_events(**{c.ITEM_ID: mixed})


def permuted_late(log: RawLog, draw: np.random.Generator) -> RawLog:
    """The items of the last quarter of the events are shuffled."""
    late = (log.events[c.TIMESTAMP] >= log.events[c.TIMESTAMP].quantile(0.75)).to_numpy()
    item = log.events[c.ITEM_ID].to_numpy().copy()
    item[late] = draw.permutation(item[late])
    return log.with_events(**{c.ITEM_ID: item})


def renumbered_late(log: RawLog, draw: np.random.Generator) -> RawLog:
    """In the last quarter of the events every item stands under another's id."""
    ids = log.items[c.ITEM_ID].to_numpy()
    other = dict(zip(ids, draw.permutation(ids), strict=True))
    late = log.events[c.TIMESTAMP] >= log.events[c.TIMESTAMP].quantile(0.75)
    return log.with_events(
        **{c.ITEM_ID: log.events[c.ITEM_ID].where(~late, log.events[c.ITEM_ID].map(other))}
    )


def texts_permuted(log: RawLog, draw: np.random.Generator) -> RawLog:
    """Every item has the text, tags and category of another."""
    ids = draw.permutation(log.items[c.ITEM_ID].to_numpy())
    return log.with_items(**{c.ITEM_ID: ids})


def duplicates(log: RawLog, draw: np.random.Generator, share: float = 0.3) -> RawLog:
    """A share of the later events is there again, dated within the month before."""
    copy = log.later[draw.random(len(log.later)) < share]
    days = draw.random(len(copy)) * 30
    copy = copy.assign(**{c.TIMESTAMP: log.cut - pd.to_timedelta(days, unit="D")})
    if c.EVENT_ID in copy:
        copy = copy.assign(**{c.EVENT_ID: "again" + copy[c.EVENT_ID]})
    if c.IMPRESSION_ID in copy:
        copy = copy.assign(**{c.IMPRESSION_ID: None})
    return replace(log, events=pd.concat([log.events, copy]))


# -- what was shown -------------------------------------------------------------------------------


def clicked_first(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """In every list what was acted on stands first."""
    if log.impressions is None:
        return None
    acted = log.events[log.positive].groupby(c.IMPRESSION_ID)[c.ITEM_ID].agg(set).to_dict()
    lists = log.impressions.copy()
    items, chances = [], []
    for name, shown, given in zip(
        lists[c.IMPRESSION_ID], lists[c.ITEM_IDS], lists[c.PROPENSITIES], strict=True
    ):
        mine = acted.get(name, set())
        order = np.argsort([item not in mine for item in shown], kind="stable")
        items.append(np.asarray(shown)[order])
        chances.append(np.asarray(given)[order])
    return replace(log, impressions=lists.assign(**{c.ITEM_IDS: items, c.PROPENSITIES: chances}))


# -- sound columns --------------------------------------------------------------------------------


def sound_columns(log: RawLog, draw: np.random.Generator) -> RawLog:
    """Attributes as they should be: what was known at a moment long past, and what has nothing to do
    with events."""
    past = log.events[log.events[c.TIMESTAMP] < log.events[c.TIMESTAMP].quantile(0.6)]
    sales = _sales(log, past)
    ids = log.events[c.USER_ID].unique()
    log = log.with_items(
        sold_so_far=sales,
        best_so_far=sales > sales.quantile(0.9),
        class_so_far=(np.ceil(sales.rank(pct=True) * 5)).astype(int).map("class {}".format),
        weight=draw.lognormal(0, 1, len(log.items)),
        colour=draw.choice(["red", "green", "blue"], len(log.items)),
        supplier=draw.choice([f"supplier {n}" for n in range(40)], len(log.items)),
    )
    years = pd.Series(draw.integers(18, 80, len(ids)).astype(float), ids)
    count = past.groupby(c.USER_ID).size().reindex(ids, fill_value=0).astype(float)
    told: dict[str, pd.Series] = {"years": years, "orders_so_far": count}
    if log.items[c.CATEGORY].nunique() > 1:
        told["favourite_so_far"] = "likes " + _favourite(log, past)
    return log.with_users(**told)


# -- kinds beyond the usual list ------------------------------------------------------------------


def last_sold(log: RawLog, draw: np.random.Generator) -> RawLog:
    """An item's attribute is the number of days since it was last acted on."""
    last = log.items[c.ITEM_ID].map(log.events.groupby(c.ITEM_ID)[c.TIMESTAMP].max())
    days = (log.events[c.TIMESTAMP].max() - last).dt.total_seconds() / 86400
    return log.with_items(idle=days.round(1))


def last_seen(log: RawLog, draw: np.random.Generator) -> RawLog:
    """A user's attribute is the number of days since they were last there."""
    last = log.events.groupby(c.USER_ID)[c.TIMESTAMP].max()
    days = (log.events[c.TIMESTAMP].max() - last).dt.total_seconds() / 86400
    return log.with_users(idle=days.round(1))


def users_permuted_late(log: RawLog, draw: np.random.Generator) -> RawLog:
    """The users of the last quarter of the events are shuffled."""
    late = (log.events[c.TIMESTAMP] >= log.events[c.TIMESTAMP].quantile(0.75)).to_numpy()
    user = log.events[c.USER_ID].to_numpy().copy()
    user[late] = draw.permutation(user[late])
    return log.with_events(**{c.USER_ID: user})


def stars_turned_round(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """In the last quarter of the events one star is the best."""
    if c.VALUE not in log.events:
        return None
    late = log.events[c.TIMESTAMP] >= log.events[c.TIMESTAMP].quantile(0.75)
    value = log.events[c.VALUE]
    return log.with_events(**{c.VALUE: value.where(~late, 5.5 - value)})


def price_follows_sales(log: RawLog, draw: np.random.Generator) -> RawLog:
    """An item's price was raised with what it is going to sell."""
    price = draw.lognormal(2.0, 0.3, len(log.items)) * (1 + _sales(log, log.later)) ** 0.7
    return log.with_items(price=price)


def propensities_tell(log: RawLog, draw: np.random.Generator) -> RawLog | None:
    """The propensity of what was acted on is above the others of its list."""
    if log.impressions is None:
        return None
    acted = log.events[log.positive].groupby(c.IMPRESSION_ID)[c.ITEM_ID].agg(set).to_dict()
    lists = log.impressions
    chances = [
        np.array(
            [
                0.5 + 0.4 * draw.random() if item in acted.get(name, ()) else 0.3 * draw.random()
                for item in shown
            ]
        )
        for name, shown in zip(lists[c.IMPRESSION_ID], lists[c.ITEM_IDS], strict=True)
    ]
    return replace(log, impressions=lists.assign(**{c.PROPENSITIES: chances}))


PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        twins, rough_twins, tags_name_raters, tags_name_later_raters, text_names_raters,
        created_first, created_last, positives_shifted, positives_shifted_late, seconds_encode,
        sales_later, positives_later, sales_later_noisy, later_class, later_best, sales_all,
        positives_all, items_in_order_of_sales, available_if_sold, text_tells_sales, stars_all,
        user_later_count, user_later_favourite, user_next_item, event_ids_encode, event_ids_sorted,
        file_order_encodes, permuted_by_month, permuted_late, renumbered_late, texts_permuted,
        duplicates, clicked_first, last_sold, last_seen, users_permuted_late, stars_turned_round,
        price_follows_sales, propensities_tell,
    )
}  # fmt: skip


# -- the run --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlantedOutcome:
    """What the checks said of one log."""

    failed: list[Check]
    seconds: float
    """Of the processor."""
    events: int


def look(log: RawLog) -> PlantedOutcome:
    """Ingest a log as a night does and ask every check."""
    with tempfile.TemporaryDirectory() as name:
        config = load_config(log.write(Path(name) / "raw"))
        tables = Path(name) / "tables"
        ingest(config, tables)
        read = logged_data(load_tables(tables, config), tables, config)
        started = time.process_time()
        found = examine(read)
        seconds = time.process_time() - started
    return PlantedOutcome([f.check for f in found if not f.check.passed], seconds, len(read.events))


def bases(paths: Sequence[Path], seeds: Sequence[int]) -> Iterator[tuple[str, RawLog]]:
    """The logs in which leaks are planted."""
    with tempfile.TemporaryDirectory() as name:
        lay_out_movies(Path(name))
        yield "movies", read_log(Path(name) / "data")
    for path in paths:
        yield path.name, read_log(path)
    for seed in seeds:
        yield f"generated {seed}", generated(seed)


def sizes_of(seed: int) -> dict[str, int]:
    """Users, items and days of a generated log."""
    draw = np.random.default_rng([seed, 1])
    return {
        "users": int(draw.integers(600, 2500)),
        "items": int(draw.integers(200, 1500)),
        "days": int(draw.integers(20, 60)),
    }


def plant_all(logs: Sequence[tuple[str, RawLog]], only: Sequence[str], seed: int) -> None:
    """Print what was found of each kind in each log."""
    hits: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    said: dict[str, Counter[str]] = {}
    for number, (name, log) in enumerate(logs):
        for kind in only or PLANTS:
            draw = np.random.default_rng([seed, number, len(kind)])
            cut = replace(log, late=float(draw.uniform(0.78, 0.92)))
            planted = PLANTS[kind](cut, draw)
            if planted is None:
                continue
            outcome = look(planted)
            tried[kind] += 1
            hits[kind] += bool(outcome.failed)
            found = [f"{check.outcome}: {check.name}" for check in outcome.failed]
            said.setdefault(kind, Counter()).update(found)
            missed = "" if found else "   MISSED"
            print(f"  {name:16} {kind:24} {outcome.seconds:4.1f} s{missed}", flush=True)
    print("\n| planted | found | by |\n|---|---|---|")
    for kind in tried:
        by = ", ".join(f"{what} ({times})" for what, times in said[kind].most_common(3))
        print(f"| {PLANTS[kind].__doc__ or kind} | {hits[kind]} of {tried[kind]} | {by} |")


def accuse_none(logs: Sequence[tuple[str, RawLog]], seed: int) -> None:
    """Print what is found in sound logs, each as it is and with sound columns."""
    false, count = 0, 0
    for number, (name, log) in enumerate(logs):
        for what, sound in (
            ("as it is", log),
            ("with columns", sound_columns(log, np.random.default_rng([seed, number]))),
        ):
            outcome = look(sound)
            count += 1
            false += bool(outcome.failed)
            print(
                f"  {name:16} {what:14} {outcome.events:8,} events {outcome.seconds:5.1f} s",
                flush=True,
            )
            for check in outcome.failed:
                print(f"      FALSE {check.outcome}: {check.name}: {check.detail}", flush=True)
    print(f"\n{false} of {count} sound logs were accused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=2, help="generated logs with leaks")
    parser.add_argument("--sound", type=int, default=20, help="generated logs without")
    parser.add_argument("--first", type=int, default=101, help="the first seed")
    parser.add_argument("--only", nargs="*", default=[], choices=list(PLANTS))
    args = parser.parse_args()
    seeds = range(args.first, args.first + max(args.seeds, args.sound))
    if args.sound:
        print("sound logs")
        accuse_none(list(bases(args.path, seeds[: args.sound])), args.first)
    if args.seeds:
        print("\nplanted")
        plant_all(list(bases(args.path, seeds[: args.seeds])), args.only, args.first)


if __name__ == "__main__":
    main()
