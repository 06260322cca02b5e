"""Files of user ids, as people have them."""

from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.errors import UsageError
from recsys.operations.user_ids import read_users


@pytest.mark.parametrize(
    "text",
    [
        "u2\nu1\n\nu2\n",
        "user_id\nu2\nu1\n",
        'age,user_id\n3,"u2"\n4,u1\n5,\n',
        "\ufeffuser_id\r\nu2\r\n u1 \r\n",
        "age;user_id\n3;u2\n4;u1\n",
        "user_id\tname\nu2\tAnn, of York\nu1\tBo\n",
        '"user_id"|"age"\n"u2"|3\n"u1"|4\n',
    ],
)
def test_shapes_of_text(tmp_path, text):
    file = tmp_path / "users.csv"
    file.write_bytes(text.encode())
    assert read_users(file) == ["u2", "u1"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["2", None, "1", "2"]),
        pa.array([2, 1], pa.int32()),
        pa.array(["2", "1"]).dictionary_encode(),
    ],
)
def test_shapes_of_parquet(tmp_path, column):
    file = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": column}), file)
    assert read_users(file) == ["2", "1"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("users.parquet", b"user_id\nu1\n", "cannot be read"),
        ("users.txt", b"\xff\xfe\x00u", "cannot be read"),
        ("users.csv", b"id,age\nu1,3\n", "column 'user_id' is missing"),
        ("users.csv", b"id;name\nu1;x\n", "looks like several columns"),
        ("users.tsv", b"id\tname\nu1\tx\n", "looks like several columns"),
        ("users.csv", b'"id";"age"\n"u1";"3"\n', "looks like several columns"),
        ("users.xlsx", b"PK\x03\x04\x14\x00\x06\xff", "cannot be read"),
        ("users.txt", b"\n\n", "names no user"),
        ("users.txt", b"", "names no user"),
        ("users.csv", b"user_id\n", "names no user"),
    ],
)
def test_what_cannot_be_used_is_one_message(tmp_path, name, content, says):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        read_users(file)
    assert name in caught.value.render()


def test_a_folder_or_nothing(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_users(tmp_path)


def test_an_id_may_hold_what_divides_other_files(tmp_path):
    file = tmp_path / "users.txt"
    file.write_text("auth0|123\na;b\n")
    assert read_users(file) == ["auth0|123", "a;b"]
    file.write_text("user_id\na;b\nc;d\n")
    assert read_users(file) == ["a;b", "c;d"]


def test_a_workbook_is_named_and_a_parquet_file_is_known_whatever_it_is_called(tmp_path):
    book = tmp_path / "users.csv"
    book.write_bytes(b"PK\x03\x04" + bytes(range(128, 200)))
    with pytest.raises(UsageError) as caught:
        read_users(book)
    assert "an Excel workbook" in caught.value.render()
    file = tmp_path / "users.pq"
    pq.write_table(pa.table({"user_id": ["u2", " u1 "]}), file)
    assert read_users(file) == ["u2", " u1 "]


def test_uuids_are_read_as_tables_read_them(tmp_path):
    file = tmp_path / "users.parquet"
    ids = [UUID(int=2), UUID(int=1)]
    column = pa.array([each.bytes for each in ids], pa.uuid())
    pq.write_table(pa.table({"user_id": column}), file)
    assert read_users(file) == [str(each) for each in ids]


def test_decimals_with_room_for_a_fraction_are_refused(tmp_path):
    file = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": pa.array([Decimal(7)], pa.decimal128(20, 2))}), file)
    with pytest.raises(UsageError, match="wrong type") as caught:
        read_users(file)
    assert "cast them to whole numbers" in caught.value.render()
    pq.write_table(pa.table({"user_id": pa.array([Decimal(7)], pa.decimal128(20, 0))}), file)
    assert read_users(file) == ["7"]


def test_ids_that_went_through_a_float_are_refused(tmp_path):
    file = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": [1.0, None]}), file)
    with pytest.raises(UsageError, match="wrong type") as caught:
        read_users(file)
    assert "Int64" in caught.value.render()
