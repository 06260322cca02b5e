"""Tiny data sets in the published layouts become tables that ingestion takes whole."""

import gzip
import json
from datetime import UTC, datetime

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


LAYOUTS = {
    "movielens": ("movielens", movielens),
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
