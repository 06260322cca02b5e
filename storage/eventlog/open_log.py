"""Which log a workspace writes to, and opening it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.distribution import install_extra
from recsys.data_schemas.errors import UsageError
from recsys.storage.eventlog.log import EventLog
from recsys.storage.workspace import LOG_FILE


def log_address(config: RecsysConfig) -> str:
    """Where the durable log is: the one the config names, or SQLite in the workspace."""
    return config.serving.log or str(config.workspace_path / "log" / LOG_FILE)


def never_written(address: str) -> bool:
    """Whether this is a file that no service has made yet."""
    return "://" not in address and not Path(address).exists()


def open_log(address: str | Path) -> EventLog:
    """Open or create a log.

    Args:
        address: `postgresql://…`, `sqlite:///path`, or a path.

    Raises:
        UsageError: the address's scheme is not known, the file cannot be opened, or psycopg is not there.
        LogUnavailable: the PostgreSQL server does not answer.
    """
    text = str(address)
    if text.startswith(("postgresql://", "postgres://")):
        try:
            from recsys.storage.eventlog.postgres import PostgresLog
        except ImportError as error:
            raise UsageError(
                "a log in PostgreSQL needs a package that cannot be imported",
                where="serving.log",
                found=error,
                expected="the package psycopg",
                fix=f"{install_extra('postgres')}, or leave serving.log out for SQLite",
            ) from None
        return PostgresLog(text)
    if "://" in text and not text.startswith("sqlite:///"):
        raise UsageError(
            "unknown kind of log",
            where="serving.log",
            found=text.split("://")[0] + "://…",
            expected="postgresql://… , sqlite:///path, or a path",
        )
    from recsys.storage.eventlog.sqlite import SqliteLog

    return SqliteLog(Path(text.removeprefix("sqlite:///")))


@contextmanager
def written_log(config: RecsysConfig) -> Iterator[EventLog | None]:
    """The log of a workspace, open; None where no service has written one yet."""
    address = log_address(config)
    if never_written(address):
        yield None
    else:
        with open_log(address) as log:
            yield log
