"""Files of user ids, as people have them."""

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
