"""The file system of an address, as pyarrow reads it: a disk, or object storage with its credentials in
the environment."""

import re
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs as fs

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import UsageError

EXPECTED = "a path, or s3://, gs://, abfs:// or hdfs:// with its credentials in the environment"


def is_remote(address: str) -> bool:
    """Whether an address names another file system than the disk."""
    return "://" in address


def placed(config: RecsysConfig, named: str) -> str:
    """An address as a config means it: a path is relative to the YAML."""
    return named if is_remote(named) else str(config.path(named))


@lru_cache(maxsize=64)
def file_system_of(address: str, where: str) -> tuple[Any, str]:
    """(file system, path in it) of a local path or URL.

    Args:
        address: what is to be read or written.
        where: setting that names it, for the message.

    Raises:
        UsageError: no file system reads such an address.
    """
    if not is_remote(address):
        return fs.LocalFileSystem(), address
    try:
        system, path = fs.FileSystem.from_uri(address)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            "this address cannot be read",
            where=where,
            found=f"{redacted(address)}: {error}",
            expected=EXPECTED,
        ) from None
    return system, path.rstrip("/")


def unreachable(address: str, where: str, error: OSError) -> UsageError:
    """The message for storage that answers with an error: refused, or not there."""
    text = str(error)
    name = re.search(r"AWS Error ([A-Z_]+)", text)
    denied = re.search(
        "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|credential|Forbidden", text, re.I
    )
    return UsageError(
        "object storage refuses to show this" if denied else "object storage does not answer",
        where=f"{redacted(address)} ({where})",
        found=f"{name[1]}: {text.splitlines()[0][:200]}" if name else text.splitlines()[0][:300],
        expected="credentials in the environment that may list and read it, such as"
        " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if denied
        else "an address that this machine reaches; AWS_ENDPOINT_URL and AWS_REGION say where S3 is",
        fix="set them, or correct the address",
    )
