"""The durable log: the truth for events, impressions and new items between two nights.

`open_log(uri)` gives SQLite (a path, `sqlite:///path`) or PostgreSQL (`postgresql://…`) behind
one interface; `ImpressionBuffer` takes impressions off the request's path.
"""

from recsys.data_schemas.log_record import (
    EVENT,
    FORGET,
    IMPRESSION,
    ITEM,
    Entry,
    LogMark,
    LogRecord,
)
from recsys.storage.eventlog.buffer import ImpressionBuffer
from recsys.storage.eventlog.drain import export
from recsys.storage.eventlog.log import EventLog
from recsys.storage.eventlog.open_log import log_address, never_written, open_log, written_log
from recsys.storage.eventlog.standing import LogDamaged, LogReplaced, LogUnavailable

__all__ = [
    "EVENT",
    "FORGET",
    "IMPRESSION",
    "ITEM",
    "Entry",
    "EventLog",
    "ImpressionBuffer",
    "LogDamaged",
    "LogMark",
    "LogRecord",
    "LogReplaced",
    "LogUnavailable",
    "export",
    "log_address",
    "never_written",
    "open_log",
    "written_log",
]
