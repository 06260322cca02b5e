"""Columns named as people and engines name them; texts, numbers and times that no type of ours holds."""

import random
import string
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from recsys.data_schemas.columns import ITEM_STANDARD
from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.limits import (
    ATTRIBUTES,
    EVENT_TYPES,
    ID_LENGTH,
    NAME_LENGTH,
    RESERVED,
    attribute_value,
    is_sound,
    name_fault,
)

FEW = settings(
    max_examples=4,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
"""Each example is an ingestion, of many names or texts at once."""
UTC_TIME = pa.timestamp("us", tz="UTC")
NOON = 1_700_000_000_000_000
ENGINE_WORDS = [
    "rowid",
    "file_row_number",
    "filename",
    "__path",
    "__file",
    "__row",
    "__rule",
    "__log",
    "__place",
    "c0",
    "c1",
    "a0",
    "a1",
    "order",
    "select",
    "group",
    "user",
    "table",
    "index",
    "row",
    "struct",
    "list",
    "map",
    "r",
    "u",
    "f",
    "x",
    "l",
    "p",
    "label",
    "side",
    "rule",
    "source_file",
    "source_row",
    "original_rule",
    "count",
    "__index_level_1__",
    "item_indices",
    "user_index",
    "events",
    "from",
    "vocabulary",
]
PEOPLE_WORDS = [
    "price (USD)", "a,b", '["x"]', "{y}: z", 'say "hi"', "it's", "цена, руб", "價格", "😀", "100%",
    " spaced ", "x.y", "x/y", "\\", "size, cm", "brand name", "x" * NAME_LENGTH, "?", "*", "-", "1",
    "--", "/*", ";", "$1", "{}", "%s", "\u00e9", "e\u0301", "true", "NULL",
]  # fmt: skip


def columns_of(names, rows=4):
    return {name: [float(7 * n + k) for k in range(rows)] for n, name in enumerate(names)}


def read_back(desk, names):
    """Attributes of the items written, by name."""
    table = pq.read_table(desk.out / "items.parquet")
    return {name: table[name].to_pylist() for name in names if name in table.column_names}


def test_engine_words_and_people_words_are_attributes_like_any_other(desk):
    names = [n for n in [*ENGINE_WORDS, *PEOPLE_WORDS] if name_fault(n) is None]
    assert len(names) > 60
    desk.items(**columns_of(names))
    desk.events()
    assert desk.ingest()["item_attributes"] == names
    assert read_back(desk, names) == columns_of(names)
    # What an earlier run wrote is read again under the same names.
    vocabulary = desk.out.with_name("vocabulary.parquet")
    vocabulary.write_bytes((desk.out / "items.parquet").read_bytes())
    desk.items(3, **columns_of(names, 3))
    desk.ingest(previous=vocabulary, quarantine_limit=1.0)
    assert read_back(desk, names) == columns_of(names)


@FEW
@given(
    st.lists(
        st.one_of(
            st.text(min_size=1, max_size=12),
            st.text(st.sampled_from("\"'`[]{}(),:;%\\/ .#?*-_aA1"), min_size=1, max_size=8),
            st.sampled_from([*ENGINE_WORDS, *sorted(RESERVED)]),
        ),
        unique_by=str.lower,
        min_size=30,
        max_size=90,
    )
)
def test_every_name_is_an_attribute_or_is_noted(desk, names):
    own = columns_of([n for n in names if n not in ITEM_STANDARD])
    ids = [f"i{k}" for k in range(4)]
    desk.write("items.parquet", {"item_id": ids, "title": ids} | own)
    desk.events()
    summary = desk.ingest()
    found = summary["item_attributes"]
    assert found == [name for name in own if name_fault(name) is None]
    assert read_back(desk, found) == {name: own[name] for name in found}
    notes = [note for note in summary["tables"]["items"]["notes"] if "left out" in note]
    assert len(notes) == len(own) - len(found)


def test_what_pandas_calls_an_index_is_left_out_with_a_note(desk):
    own = columns_of(["__index_level_0__", "Unnamed: 0", "Unnamed: 0_level_1", "size"])
    desk.items(**own)
    desk.events(**columns_of(["__index_level_0__", "Unnamed: 0"], 8))
    desk.write(
        "users.parquet", {"user_id": ["u0", "u1"], "__index_level_0__": [1, 2], "age": [3, 4]}
    )
    summary = desk.ingest(users="users.parquet")
    assert summary["item_attributes"] == ["size"]
    assert summary["user_attributes"] == ["age"]
    notes = " ".join(summary["tables"]["items"]["notes"] + summary["tables"]["users"]["notes"])
    assert notes.count("pandas wrote the row's place in a frame under this name") == 4


def test_a_column_called_rowid_does_not_count_the_rows(desk):
    desk.items(200, item_id=[f"i{k % 199}" for k in range(200)], rowid=[0] * 200)
    desk.events()
    summary = desk.ingest()
    assert (summary["items"], summary["tables"]["items"]["rules"]) == (
        199,
        {"duplicate_item_id": 1},
    )


def test_names_that_differ_in_case_keep_the_first_with_its_own_values(desk):
    table = pa.table(
        {"ITEM_ID": ["x"] * 4, "item_id": [f"i{k}" for k in range(4)], "title": ["t"] * 4}
    )
    table = table.append_column("Brand", pa.array(["A"] * 4)).append_column(
        "brand", pa.array(["b"] * 4)
    )
    desk.write("items.parquet", table)
    desk.events()
    summary = desk.ingest()
    assert [r["item_id"] for r in desk.rows("items.parquet")] == ["i0", "i1", "i2", "i3"]
    assert read_back(desk, ["Brand", "brand"]) == {"Brand": ["A"] * 4}
    assert "`brand` is left out: another differs only in case" in str(summary["tables"]["items"])


def test_the_quarantine_keeps_the_owners_names(desk):
    own = columns_of(["rule", "Source_Row", "file_row_number", "rowid"])
    desk.items(item_id=["a", "a", "b", "c"], **own)
    desk.events(2, item_id=["a", "b"])
    desk.ingest(quarantine_limit=1.0)
    (row,) = desk.rows("quarantine/items.parquet")
    assert (row["rule"], row["source_row"]) == ("duplicate_item_id", 1)
    assert [row[n] for n in ("original_rule", "original_Source_Row", "rowid")] == [1.0, 8.0, 22.0]


def test_column_bombs_are_refused_at_once(desk):
    desk.events()
    desk.items(**columns_of([f"k{n}" for n in range(ATTRIBUTES + 1)]))
    with pytest.raises(DataRefused, match="too many attributes") as caught:
        desk.ingest()
    assert f"{ATTRIBUTES + 1} columns" in caught.value.render()
    desk.items(**columns_of([f"k{n}" for n in range(3000)]))
    with pytest.raises(DataRefused, match="too many columns"):
        desk.ingest()
    desk.items(**columns_of([f"k{n}" for n in range(ATTRIBUTES)]))
    assert len(desk.ingest()["item_attributes"]) == ATTRIBUTES


def test_a_column_bomb_of_a_database_is_refused_before_it_is_read(desk):
    base = duckdb.connect(str(desk.root / "shop.db"))
    many = ", ".join(f"{n} AS k{n}" for n in range(3000))
    base.execute(f"CREATE TABLE items AS SELECT 'i0' AS item_id, 'T' AS title, {many}")
    base.execute("CREATE TABLE events AS SELECT 'u' AS user_id")
    base.close()
    with pytest.raises(DataRefused, match="too many columns"):
        desk.ingest(items="items", events="events", connection=f"duckdb://{desk.root / 'shop.db'}")


def test_a_column_of_ids_is_no_column_of_event_types(desk):
    desk.items()
    many = [f"t{k}" for k in range(EVENT_TYPES + 1)]
    desk.events(len(many), event_type=many)
    with pytest.raises(DataRefused, match="too many event types") as caught:
        desk.ingest()
    assert "201 distinct values" in caught.value.render()


# -- identity --------------------------------------------------------------------------------------


def raw_text(cells):
    """Strings of Parquet that hold these very bytes, UTF-8 or not."""
    binary = pa.array(cells, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


LATIN = [b"jos\xe9", b"jos\xe8", b"ren\xe9e", b"ren\xe8e"]


@pytest.mark.parametrize(
    "column", ["user_id", "item_id", "event_type", "event_id", "impression_id"]
)
@pytest.mark.parametrize("typed", [raw_text, lambda cells: pa.array(cells, pa.binary())])
def test_ids_that_are_no_text_are_set_aside_and_never_merged(desk, column, typed):
    desk.items(20, item_id=[f"i{k}" for k in range(20)])
    cells = [*LATIN, *(f"i{k}".encode() for k in range(16))]
    desk.events(20, **({"item_id": [f"i{k % 16}" for k in range(20)]} | {column: typed(cells)}))
    with pytest.raises(DataRefused, match="break a rule") as caught:
        desk.ingest()
    assert "hex:6a6f73e9" in caught.value.render() or column in ("event_id", "impression_id")
    summary = desk.ingest(quarantine_limit=1.0)
    rule = "unfit_event_type" if column == "event_type" else "id_not_utf8"
    assert summary["tables"]["events"]["rules"] == {rule: 4}
    assert summary["tables"]["events"]["warnings"] == {}
    kept = {row[column] for row in desk.rows("quarantine/events.parquet")}
    assert kept == {f"hex:{cell.hex()}" for cell in LATIN}


def test_items_and_lists_with_such_ids(desk):
    ids = [*LATIN, *(f"i{k}".encode() for k in range(16))]
    desk.items(20, item_id=raw_text(ids), title=raw_text([b"caf\xe9"] * 20))
    desk.events(8)
    shown = pa.array([[b"i0", b"i1"], [b"jos\xe9", b"i1"]], pa.list_(pa.binary()))
    lists = {"impression_id": ["p", "q"], "user_id": ["u0", "u1"], "item_ids": shown}
    desk.write("shown.parquet", lists | {"timestamp": pa.array([NOON, NOON], UTC_TIME)})
    summary = desk.ingest(impressions="shown.parquet", quarantine_limit=1.0)
    assert summary["tables"]["items"]["rules"] == {"id_not_utf8": 4}
    assert summary["tables"]["impressions"]["rules"] == {"unknown_item": 1}
    # Text is repaired and counted; an id never is.
    assert summary["tables"]["items"]["warnings"]["invalid_utf8"] == 20
    assert desk.rows("items.parquet")[0]["title"] == "caf�"


ALPHABET = st.one_of(
    st.sampled_from(" \t\n\u00a0\u3000\u200b\x00\x1f\x7f/%aé€😀"),
    st.characters(exclude_categories=("Cs",)),
)


@FEW
@given(st.lists(st.text(ALPHABET, max_size=6), min_size=100, max_size=300))
def test_tables_and_service_find_the_same_ids_sound(desk, texts):
    """The rule in SQL and the rule in Python are one."""
    texts = [*texts, "x" * ID_LENGTH, "x" * (ID_LENGTH + 1), "ok"]
    desk.items()
    desk.events(len(texts), user_id=texts, item_id=["i0"] * len(texts))
    summary = desk.ingest(quarantine_limit=1.0)
    kept = {row["user_id"] for row in desk.rows("user_vocabulary.parquet")}
    assert kept == {text for text in texts if is_sound(text, ID_LENGTH)}
    assert set(summary["tables"]["events"]["rules"]) <= {
        "missing_user_id",
        "unfit_id",
        "id_not_utf8",
        "duplicate_event",
    }


def test_a_blank_optional_id_is_none(desk):
    desk.items()
    desk.events(4, event_id=["", " ", "\u3000", "e"], impression_id=["\t", "", "p", None])
    assert desk.ingest()["events"] == 4
    assert [r["event_id"] for r in desk.rows("events.parquet")] == [None, None, None, "e"]
    assert [r["impression_id"] for r in desk.rows("events.parquet")] == [None, None, "p", None]


# -- numbers and times beyond their types ------------------------------------------------------------

BEYOND = [1e39, -1e300, 1e16, float("inf"), float("-inf")]
FINE = [1e-300, 0.0, -0.0, 1e15, -1e15, 12.5]


def test_values_beyond_every_number_are_null_and_counted(desk):
    desk.items()
    values = [*BEYOND, *FINE, float("nan"), None]
    desk.events(len(values), value=values)
    summary = desk.ingest()
    assert summary["tables"]["events"]["warnings"] == {"value_not_finite": 6}
    kept = [r["value"] for r in desk.rows("events.parquet")]
    assert kept == [None] * 5 + [pa.scalar(v, pa.float32()).as_py() for v in FINE] + [None] * 2


@pytest.mark.parametrize(
    "numbers",
    [
        pa.array([10**37, 1, 2, 3], pa.decimal128(38, 0)),
        pa.array([2**64 - 1, 1, 2, 3], pa.uint64()),
        pa.array([1e39, 1, 2, 3], pa.float64()),
        pa.array([10**60, 1, 2, 3], pa.decimal256(70, 0)),
    ],
)
def test_numbers_of_every_type(desk, numbers):
    desk.items(price=numbers)
    desk.events(4, value=numbers)
    summary = desk.ingest()
    assert summary["tables"]["items"]["warnings"] == {"attribute_beyond": 1}
    assert [r["price"] for r in desk.rows("items.parquet")] == [None, 1.0, 2.0, 3.0]
    assert [r["value"] for r in desk.rows("events.parquet")] == [None, 1.0, 2.0, 3.0]


def test_times_beyond_the_calendar(desk):
    far = pa.array([2**31 - 1, 19000, -(2**31), 19000], pa.int32()).cast(pa.date32())
    desk.items(created_at=far)
    extreme = pa.array([2**63 - 1, NOON, -(2**63) + 1, NOON + 1], pa.int64()).cast(UTC_TIME)
    desk.events(4, timestamp=extreme)
    summary = desk.ingest(quarantine_limit=1.0)
    assert summary["tables"]["items"]["warnings"] == {"created_at_beyond": 2}
    dates = [r["created_at"] for r in desk.rows("items.parquet")]
    assert dates == [None, datetime(2022, 1, 8, tzinfo=UTC)] * 2
    assert sum(summary["tables"]["events"]["rules"].values()) == 2
    desk.events(4, timestamp=far)
    assert sum(desk.ingest(quarantine_limit=1.0)["tables"]["events"]["rules"].values()) == 2


@pytest.mark.parametrize("propensity", [0.0, 1e-60, -1.0, 1.5, float("nan"), float("inf"), None])
def test_propensities_that_no_weight_can_be_made_of(desk, propensity):
    desk.items()
    desk.events()
    lists = {
        "impression_id": ["p", "q"],
        "user_id": ["u", "u"],
        "timestamp": pa.array([NOON, NOON], UTC_TIME),
        "item_ids": [["i0", "i1"]] * 2,
        "propensities": [[propensity, 0.5], [1e-6, 1.0]],
    }
    desk.write("shown.parquet", lists)
    summary = desk.ingest(impressions="shown.parquet", quarantine_limit=1.0)
    assert summary["tables"]["impressions"]["rules"] == {"propensity_range": 1}


def test_a_long_text_of_an_attribute_is_unknown(desk):
    desk.items(brand=["a", "b" * 1001, "c" * 1000, None])
    desk.events()
    summary = desk.ingest()
    assert summary["tables"]["items"]["warnings"] == {"attribute_long": 1}
    assert [r["brand"] for r in desk.rows("items.parquet")] == ["a", None, "c" * 1000, None]


# -- the service's log beside the files --------------------------------------------------------------


def drained(desk, **columns):
    """The log's export of items, in which one attribute was sent in several types."""
    n = len(next(iter(columns.values())))
    base = {
        "item_id": [f"i{k}" for k in range(n)],
        "title": [f"Told {k}" for k in range(n)],
        "received_at": pa.array([NOON] * n, UTC_TIME),
        "position": list(range(1, n + 1)),
    }
    return desk.write("log/items.parquet", base | columns).parent


def test_one_put_of_another_type_does_not_take_the_column_from_the_others(desk):
    desk.items(price=[1.0, 2.0, 3.0, 4.0], used=[True] * 4, brand=["a", "b", "c", "d"])
    desk.events()
    log = drained(desk, price=["cheap", "12.0"], used=[0.0, 7.0], brand=[7.0, 8.0])
    summary = desk.ingest(drained=log)
    assert summary["item_attributes"] == ["price", "used", "brand"]
    assert summary["tables"]["items"]["warnings"] == {"attribute_of_another_type": 4}
    rows = desk.rows("items.parquet")
    assert [r["price"] for r in rows] == [1.0, 12.0, 3.0, 4.0]
    assert [r["used"] for r in rows] == [False, True, True, True]
    assert [r["brand"] for r in rows] == ["a", "b", "c", "d"]
    assert [r["title"] for r in rows][:2] == ["Told 0", "Told 1"]


def test_the_log_cannot_bring_a_column_bomb(desk):
    desk.items(price=[1.0] * 4)
    desk.events()
    log = drained(desk, **{f"k{n}": ["v"] for n in range(ATTRIBUTES + 50)})
    summary = desk.ingest(drained=log)
    assert len(summary["item_attributes"]) == ATTRIBUTES
    assert summary["item_attributes"][0] == "price"
    assert any("there are 200 attributes already" in n for n in summary["tables"]["items"]["notes"])


def test_the_logs_event_types_beyond_the_limit_are_set_aside(desk):
    desk.items()
    desk.events(2, event_type=["view", "buy"])
    kinds = ["buy", *(f"t{k}" for k in range(EVENT_TYPES + 10))]
    n = len(kinds)
    desk.write(
        "log/events.parquet",
        {
            "user_id": ["u"] * n,
            "item_id": ["i0"] * n,
            "event_type": kinds,
            "timestamp": pa.array([NOON + 10**6 + k for k in range(n)], UTC_TIME),
            "event_id": [f"e{k}" for k in range(n)],
            "received_at": pa.array([NOON] * n, UTC_TIME),
            "position": list(range(1, n + 1)),
        },
    )
    summary = desk.ingest(drained=desk.root / "log")
    assert len(summary["event_types"]) == EVENT_TYPES
    assert summary["event_types"]["buy"]["events"] == 2
    assert summary["tables"]["events"]["log_rules"] == {"too_many_event_types": 12}


# -- the rules themselves ----------------------------------------------------------------------------


@given(st.sampled_from(["number", "boolean", "text"]), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers()),
))  # fmt: skip
def test_a_value_is_of_its_kind_or_unknown(kind, value):
    found = attribute_value(kind, value)
    if found is not None:
        assert type(found) is {"number": float, "boolean": bool, "text": str}[kind]
        assert found == value
        assert abs(found) <= 1e15 if kind == "number" else True


def test_duckdb_reads_the_patterns_as_python_does():
    from recsys.ingestion.tables.cells import blank, sound

    draw = random.Random(4)
    alphabet = [*string.printable, *map(chr, (0xA0, 0x1680, 0x2003, 0x200B, 0x3000, 0xFEFF, 0xE9))]
    texts = ["".join(draw.choices(alphabet, k=draw.randint(0, 4))) for _ in range(3000)]
    engine = duckdb.connect()
    engine.register("texts", pa.table({"x": texts}))
    found = engine.sql(f"SELECT x, {sound('x', 3)} AS sound, {blank('x')} AS blank FROM texts")
    for text, good, empty in found.fetchall():
        assert good == is_sound(text, 3), repr(text)
        assert not (good and empty)
