"""Tiny data sets in the published layouts become tables that ingestion takes whole."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import DataRefused, ExitCode, UsageError
from recsys.ingestion.importers import import_dataset
from recsys.ingestion.tables.ingest import ingest


def movielens(root):
    (root / "movies.csv").write_text(
        "movieId,title,genres\n1,Toy Story (1995),Adventure|Animation\n"
        '2,"American President, The (1995)",Comedy\n3,Odd,(no genres listed)\n'
    )
    (root / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n7,1,4.0,964982703\n7,2,0.5,964981247\n8,3,3.5,964982224\n"
    )
    (root / "tags.csv").write_text(
        'userId,movieId,tag,timestamp\n7,1,"pixar, fun",964982800\n7,1,great,964982800\n'
    )


REVIEWS_2018 = [
    {
        "reviewerID": "A1",
        "asin": "B1",
        "overall": 5.0,
        "unixReviewTime": 1525046400,
        "verified": True,
    },
    {"reviewerID": "A2", "asin": "B2", "overall": 2.0, "unixReviewTime": 1525132800},
]
META_2018 = [
    {
        "asin": "B1",
        "title": "Pen",
        "description": ["Writes.", "Well &amp; long."],
        "category": ["Office Products", "Pens"],
        "price": "$1,012.99",
        "brand": "Acme",
        "feature": ["blue"],
    },
    {"asin": "B2", "title": "Box", "description": "Holds.", "categories": [["Office", "Boxes"]]},
    {"asin": "B2", "title": "Box again"},
]
REVIEWS_2023 = [
    {"user_id": "A1", "asin": "X", "parent_asin": "B1", "rating": 4.0, "timestamp": 1525046400123}
]
META_2023 = [
    {
        "parent_asin": "B1",
        "title": "Pen",
        "description": [],
        "features": ["blue"],
        "main_category": "Office",
        "categories": ["Pens"],
        "price": 3.5,
        "store": "Acme",
    }
]


def lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def amazon_2018(root):
    lines(root / "Office_5.json.gz", REVIEWS_2018)
    lines(root / "meta_Office.json.gz", META_2018)


def amazon_2023(root):
    lines(root / "Office.jsonl", REVIEWS_2023)
    lines(root / "meta_Office.jsonl", META_2023)


def mind(root):
    for split, n in (("MINDsmall_train", 1), ("MINDsmall_dev", 2)):
        folder = root / split
        folder.mkdir()
        (folder / "news.tsv").write_text(
            "N1\tsports\tgolf\tA \"quoted' title\tShort.\thttps://x\t[]\t[]\n"
            "N2\tnews\tworld\tB\t\thttps://x\t[]\t[]\n"
            f"N3{n}\tnews\tworld\tC\tText\thttps://x\t[]\t[]\n"
        )
        (folder / "behaviors.tsv").write_text(
            f"1\tU1\t11/1{n}/2019 9:05:58 PM\tN1 N2\tN1-0 N2-1\n"
            f"2\tU{n + 1}\t11/1{n}/2019 10:00:00 AM\t\tN3{n}-0\n"
        )


def ebnerd(root):
    at = datetime(2023, 5, 18, 12, 0, 0)
    pq.write_table(
        pa.table(
            {
                "article_id": pa.array([11, 12], pa.int32()),
                "title": ["Goal", "Vote"],
                "subtitle": ["A match", "A day"],
                "body": ["Long text", "Longer text"],
                "category_str": ["sport", "nyheder"],
                "topics": [["Football"], []],
                "published_time": pa.array([at, at], pa.timestamp("us")),
                "premium": [True, False],
                "total_inviews": [10**6, 3],
            }
        ),
        root / "articles.parquet",
    )
    for split, n in (("train", 0), ("validation", 1)):
        (root / split).mkdir()
        pq.write_table(
            pa.table(
                {
                    "impression_id": pa.array([100 + n], pa.uint32()),
                    "user_id": pa.array([5], pa.uint32()),
                    "impression_time": pa.array([at.replace(day=20 + n)], pa.timestamp("us")),
                    "article_ids_inview": pa.array([[12, 11]], pa.list_(pa.int32())),
                    "article_ids_clicked": pa.array([[11]], pa.list_(pa.int32())),
                    "is_subscriber": [bool(n)],
                }
            ),
            root / split / "behaviors.parquet",
        )
        pq.write_table(
            pa.table(
                {
                    "user_id": pa.array([5], pa.uint32()),
                    "impression_time_fixed": pa.array(
                        [[at, at.replace(day=20)]], pa.list_(pa.timestamp("us"))
                    ),
                    "article_id_fixed": pa.array([[12, 11]], pa.list_(pa.int32())),
                }
            ),
            root / split / "history.parquet",
        )


def movielens_1m(root):
    """ml-1m, Latin-1; its films name a quote and a colon."""
    films = '1::Misérables, Les (1995)::Drama|Musical\n2::Star Trek: "x" (1994)::Sci-Fi\n'
    (root / "movies.dat").write_bytes(films.encode("latin-1"))
    (root / "ratings.dat").write_text(
        "7::1::5::978300760\n7::2::1::978300761\n8::1::3::978300762\n"
    )
    (root / "users.dat").write_text("7::F::1::10::48067\n8::M::56::16::70072-1234\n")


def movielens_10m(root):
    """ml-10m, UTF-8, half stars, tags."""
    (root / "movies.dat").write_text("1::Misérables, Les (1995)::Drama\n2::B (1994)::Comedy\n")
    (root / "ratings.dat").write_text("7::1::4.5::838985046\n7::2::0.5::838983525\n")
    (root / "tags.dat").write_text("7::1::great: really::1215184630\n")


def movielens_100k(root):
    """ml-100k; its split files hold the same ratings again."""
    flags = ["0"] * 19
    drama = [*flags[:8], "1", *flags[9:]]
    unknown = ["1", *flags[1:]]
    films = f"1|Misérables, Les (1995)|01-Jan-1995||http://x|{'|'.join(drama)}\n"
    films += f"267|unknown||||{'|'.join(unknown)}\n"
    (root / "u.item").write_bytes(films.encode("latin-1"))
    (root / "u.data").write_text("7\t1\t3\t881250949\n8\t267\t5\t881250950\n")
    (root / "u1.base").write_text("7\t1\t3\t881250949\n")
    (root / "u1.test").write_text("8\t267\t5\t881250950\n")
    (root / "u.user").write_text("7|24|M|technician|85711\n8|53|F|other|T8H1N\n")


META_2014 = [
    {
        "asin": "B1",
        "title": "It's a pen",
        "description": 'Says "hi"',
        "price": 3.17,
        "brand": "Acme",
        "categories": [["Office Products", "Pens"]],
        "related": {"also_bought": ["B2"]},
    },
    {"asin": "B2", "categories": [["Office Products"]]},
]


def amazon_2014(root):
    """Reviews are JSON, metadata Python dictionaries; a line of them is cut."""
    lines(root / "reviews_Office_5.json.gz", REVIEWS_2018)
    text = "".join(repr(row) + "\n" for row in META_2014) + "{'asin': 'B3', 'ti\n"
    (root / "meta_Office.json.gz").write_bytes(gzip.compress(text.encode()))


def amazon_ratings_2023(root):
    (root / "Office.csv").write_text(
        "user_id,parent_asin,rating,timestamp\nA1,B1,4.0,1525046400123\nA2,B1,0.0,1525046400124\n"
    )
    lines(root / "meta_Office.jsonl", META_2023)


def amazon_ratings_2018(root):
    """No header; the item stands first."""
    (root / "Office.csv").write_text("B1,A1,4.0,1525046400\nB2,A2,2.0,1525132800\n")
    lines(root / "meta_Office.json.gz", META_2018)


LAYOUTS = {
    "movielens": ("movielens", movielens),
    "movielens 1m": ("movielens", movielens_1m),
    "movielens 10m": ("movielens", movielens_10m),
    "movielens 100k": ("movielens", movielens_100k),
    "amazon 2014": ("amazon", amazon_2014),
    "amazon ratings 2018": ("amazon", amazon_ratings_2018),
    "amazon ratings 2023": ("amazon", amazon_ratings_2023),
    "amazon 2018": ("amazon", amazon_2018),
    "amazon 2023": ("amazon", amazon_2023),
    "mind": ("mind", mind),
    "ebnerd": ("ebnerd", ebnerd),
}


@pytest.fixture
def imported(tmp_path):
    """Import a layout; give its tables as rows, and the ingestion's summary."""

    def run(which):
        layout, lay_out = LAYOUTS[which]
        source, target = tmp_path / "source", tmp_path / "target"
        source.mkdir()
        lay_out(source)
        counts = import_dataset(layout, source, target)
        tables = {n: pq.read_table(target / "data" / f"{n}.parquet").to_pylist() for n in counts}
        assert {n: len(rows) for n, rows in tables.items()} == counts
        assert sorted(p.name for p in target.iterdir()) == ["data", "recsys.yaml"]
        summary = ingest(load_config(target / "recsys.yaml"), tmp_path / "tables")
        return tables, summary

    return run


@pytest.mark.parametrize("which", LAYOUTS)
def test_ingestion_takes_it_whole(imported, which):
    tables, summary = imported(which)
    for name, rows in tables.items():
        assert summary["tables"][name]["accepted"] == len(rows) > 0


def test_movielens(imported):
    tables, _ = imported("movielens")
    assert tables["items"][1]["title"] == "American President, The (1995)"
    assert [r["tags"] for r in tables["items"]] == [["Adventure", "Animation"], ["Comedy"], []]
    assert [(r["event_type"], r["value"]) for r in tables["events"]] == [
        ("rating", 0.5),
        ("rating", 3.5),
        ("rating", 4.0),
        ("comment", None),
    ]
    assert tables["events"][0]["timestamp"] == datetime.fromtimestamp(964981247, UTC)


def rows_of(tables, *columns):
    return [tuple(row[column] for column in columns) for row in tables]


def test_movielens_1m(imported):
    tables, summary = imported("movielens 1m")
    assert rows_of(tables["items"], "title", "tags") == [
        ("Misérables, Les (1995)", ["Drama", "Musical"]),
        ('Star Trek: "x" (1994)', ["Sci-Fi"]),
    ]
    assert rows_of(tables["events"], "user_id", "item_id", "value") == [
        ("7", "1", 5.0),
        ("7", "2", 1.0),
        ("8", "1", 3.0),
    ]
    assert summary["user_attributes"] == ["age", "gender", "occupation"]


def test_movielens_10m(imported):
    tables, _ = imported("movielens 10m")
    assert tables["items"][0]["title"] == "Misérables, Les (1995)"
    assert rows_of(tables["events"], "event_type", "value") == [
        ("rating", 0.5),
        ("rating", 4.5),
        ("comment", None),
    ]


def test_movielens_100k(imported):
    tables, _ = imported("movielens 100k")
    assert rows_of(tables["items"], "item_id", "title", "tags", "category") == [
        ("1", "Misérables, Les (1995)", ["Drama"], "Drama"),
        ("267", "unknown", [], None),
    ]
    assert rows_of(tables["events"], "user_id", "value") == [("7", 3.0), ("8", 5.0)]
    assert tables["users"][1] == {"user_id": "8", "age": 53, "gender": "F", "occupation": "other"}


def test_two_releases_are_not_one(tmp_path):
    """Users are numbered in each release on its own: 7 here is another person than 7 there."""
    for name, lay_out in (("small", movielens), ("1m", movielens_1m), ("again", movielens)):
        folder = tmp_path / name
        folder.mkdir()
        lay_out(folder)
        if name == "small":
            continue
        with pytest.raises(UsageError, match="more than one MovieLens release") as caught:
            import_dataset("movielens", tmp_path, tmp_path.parent / f"{tmp_path.name}-to")
        assert f"{name}/movies." in caught.value.render()


def test_amazon_2014(imported, tmp_path):
    tables, _ = imported("amazon 2014")
    assert rows_of(tables["items"], "item_id", "title", "description", "price", "tags") == [
        ("B1", "It's a pen", 'Says "hi"', 3.17, ["Office Products", "Pens"]),
        ("B2", None, None, None, ["Office Products"]),
    ]
    notes = (tmp_path / "target" / "recsys.yaml").read_text()
    assert "1 lines of meta_Office.json.gz are left out" in notes


@pytest.mark.parametrize("which", ["amazon ratings 2018", "amazon ratings 2023"])
def test_amazon_ratings_alone(imported, which):
    tables, _ = imported(which)
    users = rows_of(tables["events"], "user_id", "item_id", "value")
    last = ("A2", "B2", 2.0) if which.endswith("2018") else ("A2", "B1", 0.0)
    assert users == [("A1", "B1", 4.0), last]
    assert tables["events"][0]["timestamp"].year == 2018


def test_a_csv_of_something_else_is_named(tmp_path):
    amazon_2018(tmp_path)
    (tmp_path / "sales.csv").write_text("day,sold\n2024-01-01,3\n")
    with pytest.raises(DataRefused, match="none of Amazon's ratings") as caught:
        import_dataset("amazon", tmp_path, tmp_path / "target")
    assert "sales.csv" in caught.value.render()


@pytest.mark.parametrize(
    ("price", "read"),
    [
        ("$1,012.99", 1012.99),
        ("$5.99 - $12.00", 5.99),
        ("£.50", 0.5),
        ("12", 12.0),
        (7.25, 7.25),
        ("", None),
        (None, None),
        ("—", None),
        ("from 5.99", None),
        (".a-box-inner{background-color:#fff}#x .selected{width:35px;border:0 0 3px}", None),
        ("$1,012.99 .a-box{height:3px}", None),
    ],
)
def test_a_price_is_a_price_or_unknown(tmp_path, price, read):
    source = tmp_path / "source"
    source.mkdir()
    lines(source / "Office_5.json.gz", REVIEWS_2018[:1])
    lines(source / "meta_Office.json.gz", [{"asin": "B1", "title": "Pen", "price": price}])
    import_dataset("amazon", source, tmp_path / "target")
    found = pq.read_table(tmp_path / "target" / "data" / "items.parquet").to_pylist()
    assert [row["price"] for row in found] == [read]


def test_pages_scraped_as_text(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    lines(source / "Office_5.json.gz", REVIEWS_2018)
    pages = [
        {"asin": "B1", "title": "var aPageStart = (new Date()).getTime();", "brand": "Acme\n\n "},
        {"asin": "B2", "title": "Box", "main_cat": '<img src="x" alt="AMAZON FASHION"/>'},
    ]
    lines(source / "meta_Office.json.gz", pages)
    import_dataset("amazon", source, tmp_path / "target")
    found = pq.read_table(tmp_path / "target" / "data" / "items.parquet").to_pylist()
    assert rows_of(found, "title", "brand", "category") == [
        ("", "Acme", None),
        ("Box", None, "AMAZON FASHION"),
    ]


def test_an_importer_writes_nothing_that_validate_sets_aside(tmp_path):
    """Reviews repeated, without user, without metadata, from the year 2286: left out and named."""
    source = tmp_path / "source"
    source.mkdir()
    more = [
        REVIEWS_2018[0],
        {**REVIEWS_2018[0], "reviewerID": None},
        {**REVIEWS_2018[0], "asin": "elsewhere"},
        {**REVIEWS_2018[0], "unixReviewTime": 10**10},
        {**REVIEWS_2018[0], "reviewerID": "A\n1"},
    ]
    lines(source / "Office_5.json.gz", [*REVIEWS_2018, *more])
    lines(source / "meta_Office.json.gz", META_2018)
    counts = import_dataset("amazon", source, tmp_path / "target")
    assert counts == {"items": 2, "events": 2}
    summary = ingest(load_config(tmp_path / "target" / "recsys.yaml"), tmp_path / "tables")
    assert summary["tables"]["events"]["quarantined"] == 0
    notes = (tmp_path / "target" / "recsys.yaml").read_text()
    assert notes.count("1 row of events left out") == 5
    assert sorted(p.name for p in (tmp_path / "target" / "data").iterdir()) == [
        "events.parquet",
        "items.parquet",
    ]


def test_reviews_on_other_items_only_are_refused(tmp_path):
    lines(tmp_path / "r.json", [{**REVIEWS_2018[0], "asin": "elsewhere"}])
    lines(tmp_path / "meta.json", META_2018)
    with pytest.raises(DataRefused, match="nothing of the data set can be used") as caught:
        import_dataset("amazon", tmp_path, tmp_path / "target")
    assert "unknown_item: 1" in caught.value.render()
    assert not (tmp_path / "target").exists()


def test_amazon_2018(imported):
    tables, summary = imported("amazon 2018")
    pen, box = tables["items"]
    assert pen["description"] == "Writes. Well &amp; long. blue"
    assert (pen["tags"], pen["category"]) == (["Office Products", "Pens"], "Office Products")
    assert (pen["price"], pen["brand"]) == (1012.99, "Acme")
    assert (box["title"], box["tags"], box["price"]) == ("Box", ["Office", "Boxes"], None)
    assert summary["item_attributes"] == ["price", "brand"]
    assert tables["events"][0]["timestamp"] == datetime(2018, 4, 30, tzinfo=UTC)


def test_amazon_2023(imported):
    tables, _ = imported("amazon 2023")
    assert tables["items"][0]["item_id"] == "B1"
    assert (tables["items"][0]["description"], tables["items"][0]["price"]) == ("blue", 3.5)
    assert tables["events"][0]["timestamp"] == datetime(2018, 4, 30, 0, 0, 0, 123000, tzinfo=UTC)


def test_mind(imported):
    tables, _ = imported("mind")
    assert [r["item_id"] for r in tables["items"]] == ["N1", "N2", "N31", "N32"]
    assert tables["items"][0]["title"] == "A \"quoted' title"
    assert [r["impression_id"] for r in tables["impressions"]] == [
        "MINDsmall_train-2",
        "MINDsmall_train-1",
        "MINDsmall_dev-2",
        "MINDsmall_dev-1",
    ]
    assert tables["impressions"][1]["item_ids"] == ["N1", "N2"]
    first_list = datetime(2019, 11, 11, 21, 5, 58, tzinfo=UTC)
    assert [
        (r["item_id"], (r["timestamp"] - first_list).total_seconds()) for r in tables["events"]
    ] == [
        ("N1", -2),
        ("N2", -1),
        ("N2", 1),
        ("N2", 86401),
    ]
    assert tables["events"][2]["impression_id"] == "MINDsmall_train-1"


def test_mind_from_inside_a_split_as_a_dot(tmp_path, monkeypatch):
    mind(tmp_path)
    monkeypatch.chdir(tmp_path / "MINDsmall_train")
    counts = import_dataset("mind", Path("."), tmp_path / "to")
    assert counts == {"items": 3, "impressions": 2, "events": 3}
    lists = pq.read_table(tmp_path / "to" / "data" / "impressions.parquet").to_pylist()
    assert [row["impression_id"] for row in lists] == ["2", "1"]
    import_dataset("mind", tmp_path / "MINDsmall_train", Path("../again"))
    again = pq.read_table(tmp_path / "again" / "data" / "impressions.parquet").to_pylist()
    assert again == lists


def test_lists_that_do_not_say_what_was_clicked_are_left_out(tmp_path):
    source = tmp_path / "MIND"
    source.mkdir()
    mind(source)
    test = source / "MINDlarge_test"
    test.mkdir()
    (test / "news.tsv").write_text("N9\tnews\tworld\tD\tText\thttps://x\t[]\t[]\n")
    (test / "behaviors.tsv").write_text("1\tU9\t11/16/2019 1:00:00 AM\tN1\tN2 N9\n")
    counts = import_dataset("mind", source, tmp_path / "to")
    assert counts == {"items": 5, "impressions": 4, "events": 4}
    assert "1 lists of a test set are left out" in (tmp_path / "to" / "recsys.yaml").read_text()


def test_bundles_of_ebnerd_side_by_side(tmp_path):
    """A test set without clicks is left out; what a smaller bundle repeats is taken once."""
    for name in ("ebnerd_demo", "ebnerd_small"):
        (tmp_path / name).mkdir()
        ebnerd(tmp_path / name)
    silent = tmp_path / "ebnerd_testset" / "test"
    silent.mkdir(parents=True)
    shown = pq.read_table(tmp_path / "ebnerd_small" / "train" / "behaviors.parquet")
    pq.write_table(shown.drop_columns(["article_ids_clicked"]), silent / "behaviors.parquet")
    for name in ("articles", "train/history"):
        table = pq.read_table(tmp_path / "ebnerd_small" / f"{name}.parquet")
        pq.write_table(table, silent.parent / f"{name.replace('train', 'test')}.parquet")
    counts = import_dataset("ebnerd", tmp_path, tmp_path.parent / f"{tmp_path.name}-to")
    assert counts == {"items": 2, "impressions": 2, "events": 3, "users": 1}
    with pytest.raises(UsageError, match="test set of EB-NeRD"):
        import_dataset("ebnerd", silent.parent, tmp_path.parent / f"{tmp_path.name}-no")


def test_ebnerd(imported):
    tables, summary = imported("ebnerd")
    assert tables["items"][0]["description"] == "A match Long text"
    assert tables["items"][0]["created_at"] == datetime(2023, 5, 18, 12, tzinfo=UTC)
    assert summary["item_attributes"] == ["premium"]
    assert [(r["item_id"], r["impression_id"]) for r in tables["events"]] == [
        ("12", None),
        ("11", "100"),
        ("11", "101"),
    ]
    assert tables["impressions"][0]["item_ids"] == ["12", "11"]
    assert tables["users"] == [{"user_id": "5", "is_subscriber": True}]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("movielens", "movies.csv"),
        ("amazon", "*.json"),
        ("mind", "news.tsv"),
        ("ebnerd", "articles.parquet"),
    ],
)
def test_missing_files_are_named(tmp_path, layout, expected):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "other.txt").touch()
    with pytest.raises(UsageError) as caught:
        import_dataset(layout, tmp_path / "source", tmp_path / "target")
    assert expected in caught.value.render()
    assert "other.txt" in caught.value.render()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_what_is_being_written_is_no_file_of_the_data_set(tmp_path):
    (tmp_path / "other.txt").touch()
    with pytest.raises(UsageError) as caught:
        import_dataset("movielens", tmp_path, tmp_path / "target")
    assert caught.value.found == "other.txt"


def test_missing_metadata(tmp_path):
    lines(tmp_path / "reviews.json", REVIEWS_2018)
    with pytest.raises(UsageError, match="metadata, with `meta` in its name"):
        import_dataset("amazon", tmp_path, tmp_path / "target")


def test_other_layout_is_refused(tmp_path):
    (tmp_path / "movies.csv").write_text("id,name\n1,x\n")
    (tmp_path / "ratings.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataRefused) as caught:
        import_dataset("movielens", tmp_path, tmp_path / "target")
    assert "movies.csv" in caught.value.render()
    assert caught.value.code == ExitCode.DATA_REFUSED
    assert not (tmp_path / "target").exists()


def test_reviews_without_users(tmp_path):
    lines(tmp_path / "r.json", [{"a": 1}])
    lines(tmp_path / "meta.json", META_2018)
    with pytest.raises(DataRefused, match="no line with a user"):
        import_dataset("amazon", tmp_path, tmp_path / "target")


def test_missing_column_of_ebnerd(tmp_path):
    ebnerd(tmp_path)
    pq.write_table(pa.table({"article_id": [1]}), tmp_path / "articles.parquet")
    with pytest.raises(DataRefused, match="column `title` is not found"):
        import_dataset("ebnerd", tmp_path, tmp_path / "target")


def test_missing_folder_and_unknown_layout(tmp_path):
    with pytest.raises(UsageError, match="folder is not there"):
        import_dataset("mind", tmp_path / "x", tmp_path / "y")
    with pytest.raises(UsageError, match="unknown layout"):
        import_dataset("netflix", tmp_path, tmp_path / "y")
