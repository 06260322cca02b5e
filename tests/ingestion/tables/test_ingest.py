"""What ingestion accepts, sets aside, cleans and numbers."""

import hashlib
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.errors import DataRefused
from recsys.storage.eventlog import export, open_log
from recsys.storage.eventlog.log import item_write, user_write

UTC_TIME = pa.timestamp("us", tz="UTC")
NOON = 1_700_000_000_000_000
SECOND = 1_000_000


def times(*seconds):
    return pa.array([None if s is None else NOON + s * SECOND for s in seconds], UTC_TIME)


def broken(desk, file="events"):
    """(rule, source row) of the quarantine."""
    return [(r["rule"], r["source_row"]) for r in desk.rows(f"quarantine/{file}.parquet")]


def test_plain_tables(desk):
    desk.items()
    desk.events()
    summary = desk.ingest()
    assert (summary["items"], summary["users"], summary["events"]) == (4, 3, 8)
    assert summary["event_types"]["click"]["events"] == 8
    rows = desk.rows("events.parquet")
    assert [r["position"] for r in rows] == list(range(8))
    assert [r["item_index"] for r in rows] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [r["user_index"] for r in rows] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert rows[0]["value"] is None
    items = desk.rows("items.parquet")
    assert [r["item_index"] for r in items] == [0, 1, 2, 3]
    assert items[1] == {
        "item_index": 1,
        "item_id": "i1",
        "title": "Item 1",
        "description": "",
        "tags": [],
        "category": "",
        "created_at": None,
        "available": True,
    }
    assert not (desk.out / "quarantine").exists()
    assert desk.left_behind() == [
        "tables",
        "tables/events",
        "tables/events/2023.parquet",
        "tables/items.parquet",
        "tables/summary.json",
        "tables/user_vocabulary.parquet",
    ]


def test_same_input_gives_same_bytes(desk):
    desk.items(50)
    desk.events(5000)
    digests = []
    for _ in range(2):
        desk.ingest(quarantine_limit=1.0)
        digests.append(
            {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in desk.out.rglob("*.*")}
        )
    assert digests[0] == digests[1]


def test_order_is_time_then_file_then_row(desk):
    desk.items()
    kinds = [f"k{n}" for n in range(8)]
    desk.events(name="events/b.parquet", timestamp=times(*[5] * 8), event_type=kinds)
    desk.events(name="events/a.parquet", timestamp=times(5, 4, 3, 2, 1, 0, 9, 5))
    desk.ingest(events="events")
    rows = desk.rows("events.parquet")
    assert [r["timestamp"].timestamp() - NOON / 1e6 for r in rows] == [0, 1, 2, 3, 4] + [5] * 10 + [
        9
    ]
    assert [r["event_type"] for r in rows[5:15]] == ["click", "click", *kinds]
    assert [r["position"] for r in rows] == list(range(16))


def test_every_rule_of_events(desk):
    desk.items()
    desk.events(
        10,
        user_id=[None, " ", "u", "u", "u", "u", "u", "u", "u", "u"],
        item_id=["i0", "i0", None, "i1", "i1", "i1", "gone", "i2", "i2", "i3"],
        event_type=["a", "a", "a", "", "a", "a", "a", "a", "a", "a"],
        timestamp=pa.array([NOON] * 4 + [-5, 10**16, NOON, None, NOON, NOON], UTC_TIME),
    )
    summary = desk.ingest(quarantine_limit=0.9)
    assert broken(desk) == [
        ("missing_user_id", 0),
        ("missing_user_id", 1),
        ("missing_item_id", 2),
        ("missing_event_type", 3),
        ("before_1970", 4),
        ("in_the_future", 5),
        ("unknown_item", 6),
        ("missing_timestamp", 7),
    ]
    assert summary["tables"]["events"]["quarantined"] == 8
    assert summary["tables"]["events"]["rules"]["missing_user_id"] == 2
    row = desk.rows("quarantine/events.parquet")[6]
    assert row["item_id"] == "gone"
    assert row["source_file"].endswith("events.parquet")


def test_repeated_events(desk):
    desk.items()
    desk.events(
        6,
        user_id=["u"] * 6,
        item_id=["i0"] * 6,
        timestamp=times(1, 1, 1, 1, 1, 2),
        value=[1.0, 1.0, 2.0, 1.0, 1.0, 1.0],
        event_id=[None, None, None, "e1", "e1", "e2"],
    )
    desk.ingest(quarantine_limit=0.9)
    assert broken(desk) == [("duplicate_event", 1), ("duplicate_event", 4)]


def test_rows_that_differ_in_their_impression_are_two_events(desk):
    desk.items()
    same = {"user_id": ["u"] * 2, "item_id": ["i0"] * 2, "timestamp": times(1, 1)}
    desk.events(2, impression_id=["a", "b"], **same)
    assert desk.ingest()["events"] == 2


def test_values_that_are_no_numbers_become_null(desk):
    desk.items()
    desk.events(4, value=[float("nan"), float("inf"), 3.0, None])
    summary = desk.ingest()
    assert summary["tables"]["events"]["warnings"] == {"value_not_finite": 2}
    assert [r["value"] for r in desk.rows("events.parquet")] == [None, None, 3.0, None]


def test_duplicate_items_keep_the_first(desk):
    desk.items(4, item_id=["i0", "i1", "i0", None], title=["first", "b", "second", "d"])
    desk.events(2)
    desk.ingest(quarantine_limit=0.9)
    assert broken(desk, "items") == [("duplicate_item_id", 2), ("missing_item_id", 3)]
    assert [r["title"] for r in desk.rows("items.parquet")] == ["first", "b"]


def test_dirty_texts(desk):
    desk.items(
        title=["x" * 100_000, "a\x00b\x07c", None, ""],
        description=["", "", "only here", None],
    )
    desk.events()
    warnings = desk.ingest()["tables"]["items"]["warnings"]
    assert warnings == {"title_cut": 1, "control_characters": 1, "no_title": 2, "no_text": 1}
    titles = [r["title"] for r in desk.rows("items.parquet")]
    assert len(titles[0]) == 10_000
    assert titles[1:] == ["a b c", "", ""]


def test_invalid_utf8_is_replaced_and_counted(desk):
    raw = pa.array([b"ok", b"caf\xe9", b"\xff\xfe", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    desk.items(title=text)
    desk.events()
    warnings = desk.ingest()["tables"]["items"]["warnings"]
    assert warnings["invalid_utf8"] == 2
    titles = [r["title"] for r in desk.rows("items.parquet")]
    assert titles == ["ok", "caf\ufffd", "\ufffd\ufffd", "fine"]


def test_text_stored_as_bytes(desk):
    desk.items(title=pa.array([b"a", b"b\xff", b"c", b"d"], pa.binary()))
    desk.events(user_id=pa.array([b"u"] * 8, pa.binary()))
    summary = desk.ingest()
    assert summary["tables"]["items"]["warnings"] == {"invalid_utf8": 1}
    [user] = desk.rows("user_vocabulary.parquet")
    assert (user["user_id"], user["user_index"]) == ("u", 0)
    assert user["first_event"].timestamp() == NOON / 1e6


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (pa.array([["a", " b "], [], None, ["", None, "c"]]), [["a", "b"], [], [], ["c"]]),
        (pa.array([[], [], None, []], pa.list_(pa.null())), [[], [], [], []]),
        (pa.array(["a|b", "a, b", "", None]), [["a", "b"], ["a", "b"], [], []]),
        (pa.array([[1, 2], [3], None, []]), [["1", "2"], ["3"], [], []]),
        (pa.nulls(4), [[], [], [], []]),
        (
            ['["a", "caf\\u00e9, bar"]', "['q', 'z, y']", "[]", None],
            [["a", "café, bar"], ["q", "z, y"], [], []],
        ),
        (["[a, b]", "['c]", ' ["x"] ', "[1, null]"], [["a", "b"], [], ["x"], ["1"]]),
        (
            pa.array([["a"], None, [], ["b"]], pa.large_list(pa.large_string())),
            [["a"], [], [], ["b"]],
        ),
    ],
)
def test_shapes_of_tags(desk, tags, expected):
    desk.items(tags=tags)
    desk.events()
    desk.ingest()
    assert [r["tags"] for r in desk.rows("items.parquet")] == expected


def test_integer_ids_are_taken_as_strings_with_a_note(desk):
    desk.items(item_id=[10, 11, 12, 13])
    desk.events(item_id=pa.array([10, 11, 12, 13] * 2, pa.int32()), user_id=list(range(8)))
    summary = desk.ingest()
    assert summary["tables"]["items"]["notes"] == ["`item_id` holds int64, taken as strings"]
    assert len(summary["tables"]["events"]["notes"]) == 2
    assert desk.rows("items.parquet")[0]["item_id"] == "10"


def test_other_kinds_of_ids(desk):
    file = desk.root / "items.parquet"
    duckdb.sql("SELECT uuid() AS item_id, 'x' AS title FROM range(4)").write_parquet(str(file))
    ids = [str(cell) for cell in pq.read_table(file)["item_id"].to_pylist()]
    desk.events(
        item_id=ids * 2,
        user_id=pa.array([7, 8] * 4, pa.int64()).cast(pa.decimal128(20, 0)),
    )
    summary = desk.ingest()
    assert summary["tables"]["items"]["notes"] == [
        "`item_id` holds extension<arrow.uuid>, taken as strings"
    ]
    assert [r["item_id"] for r in desk.rows("items.parquet")] == ids
    assert [r["user_id"] for r in desk.rows("user_vocabulary.parquet")] == ["7", "8"]


def test_ids_with_room_for_a_fraction_are_refused_with_what_to_do(desk):
    desk.items(item_id=pa.array([Decimal(k) for k in (7, 8, 9, 10)], pa.decimal128(20, 2)))
    desk.events()
    with pytest.raises(DataRefused, match="wrong type") as caught:
        desk.ingest()
    assert "decimal128(20, 2)" in caught.value.render()
    assert "item_id::DECIMAL(20, 0)" in caught.value.render()
    assert "pandas" not in caught.value.render()


def test_dates_are_midnight_utc(desk):
    desk.items(created_at=pa.array([19000] * 4, pa.int32()).cast(pa.date32()))
    desk.events(timestamp=pa.array([19600 + k for k in range(8)], pa.int32()).cast(pa.date32()))
    summary = desk.ingest()
    assert summary["tables"]["events"]["notes"] == [
        "`timestamp` holds date32[day], taken as midnight UTC"
    ]
    assert summary["resolution"]["kind"] == "days"
    assert desk.rows("events.parquet")[0]["timestamp"].timestamp() == 19600 * 86400
    assert desk.rows("items.parquet")[0]["created_at"].timestamp() == 19000 * 86400


def test_files_of_one_table_whose_types_differ_without_loss(desk):
    desk.items(2, name="items/a.parquet", tags=[[], []], price=[1, 2])
    second = {"item_id": ["i2", "i3"], "title": ["x", "y"]}
    desk.write("items/b.parquet", {**second, "tags": [["t"], None], "price": [1.5, None]})
    desk.events(4, name="events/a.parquet", value=[4, 5, 4, 5])
    desk.events(4, name="events/b.parquet", value=[4.5] * 4, timestamp=times(10, 11, 12, 13))
    summary = desk.ingest(items="items", events="events")
    assert [r["value"] for r in desk.rows("events.parquet")] == [4, 5, 4, 5, *[4.5] * 4]
    items = desk.rows("items.parquet")
    assert [(r["tags"], r["price"]) for r in items] == [
        ([], 1.0),
        ([], 2.0),
        (["t"], 1.5),
        ([], None),
    ]
    assert summary["item_attributes"] == ["price"]


def test_a_column_without_a_name_is_left_out(desk):
    items = pq.read_table(desk.items())
    desk.write("items.parquet", items.append_column("", pa.array([1] * 4)))
    desk.events()
    assert desk.ingest()["tables"]["items"]["notes"] == ["a column without a name is left out"]


def test_other_kinds_of_time_and_text(desk):
    desk.items(category=pa.array(["a", "b", None, "a"]).dictionary_encode())
    nanoseconds = pa.array([NOON * 1000] * 8, pa.timestamp("ns", tz="Europe/Berlin"))
    desk.events(timestamp=nanoseconds, event_type=[f"k{n}" for n in range(8)])
    desk.ingest()
    assert [r["category"] for r in desk.rows("items.parquet")] == ["a", "b", "", "a"]
    assert desk.rows("events.parquet")[0]["timestamp"].timestamp() == NOON / 1e6


def test_attributes_pass_through(desk):
    many = [f"text {k}" for k in range(1200)]
    desk.items(
        1200,
        price=[1.5, float("nan"), *[2.0] * 1198],
        stock=pa.array([None, *[3] * 1199], pa.int16()),
        used=[True, False] * 600,
        brand=["x", "y", "z"] * 400,
        blurb=many,
        seen=times(*range(1200)),
    )
    desk.events()
    summary = desk.ingest()
    assert summary["item_attributes"] == ["price", "stock", "used", "brand"]
    notes = " ".join(summary["tables"]["items"]["notes"])
    assert "`blurb` has more than 1,000 distinct texts" in notes
    assert "`seen` (timestamp[us, tz=UTC]) is left out" in notes
    first = desk.rows("items.parquet")[:2]
    assert (first[0]["price"], first[0]["stock"], first[0]["used"]) == (1.5, None, True)
    assert (first[1]["price"], first[1]["brand"]) == (None, "y")


def test_folder_partitioned_by_day(desk):
    desk.items(name="items/lang=en/part-0.parquet")
    desk.events(4, name="events/day=2024-01-02/a.parquet")
    desk.events(4, name="events/day=2024-01-01/a.parquet", timestamp=times(10, 11, 12, 13))
    desk.events(4, name="events/_temporary/a.parquet", timestamp=times(20, 21, 22, 23))
    summary = desk.ingest(items="items", events="events")
    assert summary["events"] == 8
    assert summary["tables"]["events"]["files"] == 2
    assert summary["item_attributes"] == []


def test_glob_and_files_of_different_width(desk):
    desk.items()
    desk.events(4, name="e-1.parquet")
    desk.events(4, name="e-2.parquet", value=[1.0] * 4, timestamp=times(10, 11, 12, 13))
    summary = desk.ingest(events="e-*.parquet")
    assert summary["events"] == 8
    assert [r["value"] for r in desk.rows("events.parquet")] == [None] * 4 + [1.0] * 4


def test_names_with_quotes_and_wildcards(desk):
    desk.items(name="it's [odd]*/items.parquet")
    desk.events(name="e'v?.parquet")
    assert desk.ingest(items="it's [odd]*/items.parquet", events="e'v?.parquet")["events"] == 8


def test_indices_never_change(desk):
    desk.items(item_id=["b", "a", "c", "d"], price=[1.0, 2.0, 3.0, 4.0])
    desk.events(item_id=["a", "b"] * 4)
    desk.ingest()
    earlier = desk.root / "earlier.parquet"
    (desk.out / "items.parquet").rename(earlier)
    desk.items(3, item_id=["new", "a", "b"], title=["N", "A2", "B2"], price=[9.0, 8.0, 7.0])
    summary = desk.ingest(previous=earlier)
    rows = desk.rows("items.parquet")
    assert [r["item_id"] for r in rows] == ["b", "a", "c", "d", "new"]
    assert [r["title"] for r in rows] == ["B2", "A2", "Item 2", "Item 3", "N"]
    assert [r["available"] for r in rows] == [True, True, False, False, True]
    assert [r["price"] for r in rows] == [7.0, 8.0, 3.0, 4.0, 9.0]
    assert summary["tables"]["items"]["warnings"]["withdrawn"] == 2
    assert {r["item_id"]: r["item_index"] for r in desk.rows("events.parquet")} == {"a": 1, "b": 0}


def drain(desk, events=None, items=None, impressions=None, forgets=None):
    """An export of the service's log."""
    folder = desk.root / "drained"
    tables = {"events": events, "items": items, "impressions": impressions, "forgets": forgets}
    for name, columns in tables.items():
        if columns is not None:
            desk.write(f"drained/{name}.parquet", columns)
    return folder


def log_events(n, **columns):
    base = {
        "user_id": ["u0"] * n,
        "item_id": ["i0"] * n,
        "event_type": ["view"] * n,
        "timestamp": times(*range(n)),
        "event_id": [f"log{k}" for k in range(n)],
        "received_at": times(*range(100, 100 + n)),
        "position": list(range(1, n + 1)),
    }
    return base | columns


def test_log_rows_follow_file_rows(desk):
    desk.items()
    desk.events(3, timestamp=times(0, 1, 2), event_id=["x", "log2", "y"])
    drained = drain(desk, log_events(3, timestamp=times(9, 0, 2), position=[4, 7, 9]))
    summary = desk.ingest(drained=drained)
    assert summary["positions"] == {"files": 2, "log_base": 2}
    assert summary["tables"]["events"]["rules"] == {}
    assert summary["tables"]["events"]["warnings"] == {"in_log_already": 1}
    rows = desk.rows("events.parquet")
    assert [(r["event_id"], r["position"]) for r in rows] == [
        ("x", 0),
        ("log1", 2 + 7),
        ("y", 1),
        ("log2", 2 + 9),
        ("log0", 2 + 4),
    ]
    assert rows[1]["received_at"].timestamp() == NOON / 1e6 + 101


def test_rules_of_log_rows_do_not_stop_the_run(desk):
    desk.items()
    desk.events()
    summary = desk.ingest(drained=drain(desk, log_events(5, item_id=["gone"] * 4 + ["i1"])))
    assert summary["tables"]["events"]["log_rules"] == {"unknown_item": 4}
    assert summary["tables"]["events"]["rules"] == {}
    assert broken(desk, "log_events") == [("unknown_item", k) for k in range(4)]
    assert summary["events"] == 9


def test_items_of_the_log(desk):
    desk.items(2, description=["kept", "kept too"])
    desk.events(2)
    drained = drain(
        desk,
        items={
            "item_id": ["late", "i0", "late", "early"],
            "title": ["L1", "Changed", "L2", "E"],
            "available": [None, None, False, None],
            "tags": pa.array([["a"], None, None, None], pa.list_(pa.string())),
            "received_at": times(5, 6, 7, 8),
            "position": [3, 4, 5, 1],
        },
    )
    desk.ingest(drained=drained)
    rows = desk.rows("items.parquet")
    assert [r["item_id"] for r in rows] == ["early", "late", "i0", "i1"]
    assert rows[1]["title"] == "L2"
    assert rows[1]["tags"] == ["a"]
    assert rows[1]["available"] is False
    assert rows[1]["created_at"].timestamp() == NOON / 1e6 + 5
    assert (rows[2]["title"], rows[2]["description"]) == ("Changed", "kept")
    assert rows[2]["available"] is True


def test_forgotten_users_leave_nothing(desk):
    desk.items()
    desk.events(6, user_id=["u1", "u2", "u3"] * 2, item_id=["i0"] * 5 + ["unknown"])
    drained = drain(
        desk,
        log_events(3, user_id=["u1", "u1", "u2"], position=[1, 9, 10]),
        forgets={"user_id": ["u1"], "received_at": times(50), "position": [5]},
    )
    summary = desk.ingest(drained=drained, forgotten={"u3"}, quarantine_limit=0.9)
    rows = desk.rows("events.parquet")
    assert [(r["user_id"], r["event_id"]) for r in rows if r["user_id"] == "u1"] == [("u1", "log1")]
    assert {r["user_id"] for r in rows} == {"u1", "u2"}
    assert summary["tables"]["events"]["forgotten"] == 4
    assert not (desk.out / "quarantine").exists()


IMPRESSIONS = {
    "impression_id": ["a", "b", None, "d", "e", "f", "g", "a"],
    "user_id": ["u9"] * 8,
    "timestamp": times(*range(8)),
    "item_ids": [
        ["i2", "i0"],
        ["i1"],
        ["i1"],
        [],
        ["i1", "i2"],
        ["i1"],
        ["i1", "nowhere"],
        ["i3"],
    ],
    "propensities": pa.array(
        [[0.5, 1.0], None, None, None, [1.0], [0.0], None, None], pa.list_(pa.float32())
    ),
}


def test_impressions(desk):
    desk.items()
    desk.events()
    desk.write("impressions.parquet", IMPRESSIONS)
    summary = desk.ingest(impressions="impressions.parquet", quarantine_limit=0.9)
    assert broken(desk, "impressions") == [
        ("missing_impression_id", 2),
        ("empty_list", 3),
        ("unequal_lists", 4),
        ("propensity_range", 5),
        ("unknown_item", 6),
        ("duplicate_impression_id", 7),
    ]
    rows = desk.rows("impressions.parquet")
    assert [r["item_indices"] for r in rows] == [[2, 0], [1]]
    assert [r["propensities"] for r in rows] == [[0.5, 1.0], None]
    assert summary["users"] == 4
    # numbered as they come in: u0 and u9 at noon, u1 and u2 after them
    assert rows[0]["user_index"] == 1


def test_impressions_of_the_log_alone(desk):
    desk.items()
    desk.events()
    shown = {
        "impression_id": ["p"],
        "user_id": ["u0"],
        "timestamp": times(3),
        "item_ids": [["i3"]],
        "scores": [[0.1]],
        "received_at": times(3),
        "position": [17],
    }
    summary = desk.ingest(drained=drain(desk, impressions=shown))
    assert summary["tables"]["impressions"]["accepted"] == 1
    base = summary["positions"]["log_base"]
    assert desk.rows("impressions.parquet")[0]["position"] == base + 17


def test_lists_in_which_a_rule_moved_items_are_marked(desk):
    desk.items()
    desk.events()
    shown = {"user_id": ["u0", "u1"], "timestamp": times(1, 2), "item_ids": [["i1"], ["i2"]]}
    told = {"impression_id": ["a", "b"], "rules": [None, '{"i2": "promo"}']}
    desk.write("impressions.parquet", shown | told)
    desk.ingest(impressions="impressions.parquet")
    assert [row["ruled"] for row in desk.rows("impressions.parquet")] == [False, True]
    desk.write("impressions.parquet", shown | {"impression_id": ["a", "b"]})
    desk.ingest(impressions="impressions.parquet")
    assert [row["ruled"] for row in desk.rows("impressions.parquet")] == [False, False]


def test_positions_of_events_and_impressions_compare_as_those_of_the_log(desk):
    """Whichever table has more rows of files, they lie before the log's."""
    desk.items()
    desk.events(2)
    shown = {"user_id": ["u0"] * 5, "timestamp": times(*range(5)), "item_ids": [["i1"]] * 5}
    desk.write("impressions.parquet", {"impression_id": list("abcde"), **shown})
    late = {name: values[:1] for name, values in shown.items()}
    late |= {"impression_id": ["p"], "received_at": times(9), "position": [3]}
    drained = drain(desk, log_events(1, position=[2]), impressions=late)
    summary = desk.ingest(drained=drained, impressions="impressions.parquet")
    assert summary["positions"] == {"files": 2, "log_base": 5}
    events, lists = desk.rows("events.parquet"), desk.rows("impressions.parquet")
    assert sorted(row["position"] for row in events) == [0, 1, 5 + 2]
    assert sorted(row["position"] for row in lists) == [0, 1, 2, 3, 4, 5 + 3]


def test_users(desk):
    desk.items()
    desk.events()
    desk.write(
        "users.parquet",
        {
            "user_id": ["u1", "u0", "u1", None],
            "age": [30, 20, 31, 40],
            "plan": ["x", "y", "z", "z"],
        },
    )
    alone = {"least_people": 1}
    summary = desk.ingest(users="users.parquet", quarantine_limit=0.9, privacy=alone)
    assert summary["user_attributes"] == ["age", "plan"]
    assert desk.rows("users.parquet") == [
        {"user_id": "u0", "age": 20.0, "plan": "y"},
        {"user_id": "u1", "age": 30.0, "plan": "x"},
    ]
    assert broken(desk, "users") == [("duplicate_user_id", 2), ("missing_user_id", 3)]


def test_the_services_word_on_users_completes_the_file(desk, tmp_path):
    """What `export` makes of the log, read beside the owner's table."""
    desk.items()
    desk.events()
    desk.write("users.parquet", {"user_id": ["u0", "u1"], "age": [20, 30], "plan": ["x", "y"]})
    with open_log(tmp_path / "log.sqlite") as log:
        for user, attributes in (
            ("u1", {"age": 31}), ("u2", {"plan": "z"}), ("u3", {"plan": "w"}), ("u1", {"vip": True}),
            ("u1", {"age": 32}),
        ):  # fmt: skip
            log.submit([user_write(user, attributes, NOON)]).result()
        log.forget_user("u3", NOON + 1)
        counts = export(log, 0, log.last_position(), tmp_path / "drained")
    assert counts["users"] == 2
    alone = {"privacy": {"least_people": 1}, "drained": tmp_path / "drained"}
    summary = desk.ingest(users="users.parquet", **alone)
    assert desk.rows("users.parquet") == [
        {"user_id": "u0", "age": 20.0, "plan": "x", "vip": None},
        {"user_id": "u1", "age": 32.0, "plan": "y", "vip": True},
        {"user_id": "u2", "age": None, "plan": "z", "vip": None},
    ]
    assert summary["tables"]["users"]["quarantined"] == 0
    desk.ingest(**alone)
    assert [row["user_id"] for row in desk.rows("users.parquet")] == ["u1", "u2"]


def test_an_attribute_that_came_in_several_types_is_text_as_it_was_sent(desk, tmp_path):
    """5 stays "5", which a reader of JSON makes 5.0 of; the files' own kind is read out of it."""
    desk.items(2, size=[1.5, 2.0], new=[True, False])
    desk.events(2)
    sent = {
        "a": ("red", 5.0, 1.0),
        "b": (5.0, "XL", "?"),
        "c": (2.5, 7.0, 0.0),
        "d": (1e15, 1, True),
    }
    with open_log(tmp_path / "log.sqlite") as log:
        for item, (colour, size, new) in sent.items():
            row = {"item_id": item, "title": "t", "colour": colour, "size": size, "new": new}
            log.submit([item_write({**row, "received_at": NOON})]).result()
        export(log, 0, log.last_position(), tmp_path / "drained")
    desk.ingest(drained=tmp_path / "drained")
    rows = {r["item_id"]: (r["colour"], r["size"], r["new"]) for r in desk.rows("items.parquet")}
    assert {item: rows[item] for item in sent} == {
        "a": ("red", 5.0, True),
        "b": ("5", None, None),
        "c": ("2.5", 7.0, False),
        "d": ("1000000000000000", 1.0, True),
    }


def test_tables_of_a_connection(desk):
    desk.items()
    desk.events()
    with duckdb.connect(str(desk.root / "shop.db")) as shop:
        shop.execute(f"CREATE TABLE goods AS FROM '{desk.root}/items.parquet'")
        shop.execute(f"CREATE TABLE clicks AS FROM '{desk.root}/events.parquet'")
    summary = desk.ingest(
        connection=f"duckdb://{desk.root}/shop.db", items="goods", events="clicks"
    )
    assert summary["events"] == 8
    assert "table `goods`" in summary["tables"]["items"]["source"]


def test_the_files_are_only_read(desk):
    files = [desk.items(), desk.events(item_id=["i0"] * 7 + ["x"])]
    before = [(f.stat().st_mtime_ns, f.read_bytes()) for f in files]
    for file in files:
        file.chmod(0o444)
    desk.ingest(quarantine_limit=0.5)
    assert [(f.stat().st_mtime_ns, f.read_bytes()) for f in files] == before


def test_quarantine_keeps_columns_named_like_ours(desk):
    desk.items()
    desk.events(8, item_id=["i0"] * 7 + ["x"], rule=["mine"] * 8, empty=pa.nulls(8))
    desk.ingest(quarantine_limit=0.5)
    row = desk.rows("quarantine/events.parquet")[0]
    assert (row["rule"], row["original_rule"], row["empty"]) == ("unknown_item", "mine", None)


def test_summary_file_is_what_was_returned(desk):
    import json

    desk.items()
    desk.events()
    assert desk.ingest() == json.loads((desk.out / "summary.json").read_text())
    assert len(desk.rows("events.parquet")) == 8


def test_columns_named_like_ours_or_differing_in_case(desk):
    desk.items(
        5,
        item_id=["i0", "i1", "i2", "i3", "i0"],
        rule=["a"] * 5,
        Rule=["b"] * 5,
        Title=["x"] * 5,
        source_row=[1] * 5,
        position=[9] * 5,
    )
    desk.events()
    summary = desk.ingest(quarantine_limit=0.5)
    assert summary["item_attributes"] == ["rule", "source_row"]
    notes = " ".join(summary["tables"]["items"]["notes"])
    assert "`Rule` is left out: another differs only in case" in notes
    assert "`Title` is left out" in notes
    assert desk.rows("items.parquet")[0]["rule"] == "a"
    assert broken(desk, "items") == [("duplicate_item_id", 4)]


@pytest.mark.parametrize("name", ["why?", "My%20Shop", "q'q\"", "a*b [1]", "day=2", "x#y;z"])
def test_a_folder_may_be_named_as_one_likes(tmp_path, name):
    from tests.ingestion.tables.conftest import Desk

    desk = Desk(tmp_path / name)
    desk.items()
    desk.events(name="events/day=2024-01-01/a.parquet")
    assert desk.ingest(events="events")["events"] == 8
    assert desk.ingest(previous=desk.out / "items.parquet", events="events")["items"] == 4
    assert [p.name for p in tmp_path.iterdir()] == [name]
