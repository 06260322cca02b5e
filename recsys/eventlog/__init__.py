"""The durable log: the truth for events, impressions and new items between two nights.

`EventLog.open(uri)` gives SQLite (a path, `sqlite:///path`) or PostgreSQL (`postgresql://…`) behind
one interface; `ImpressionBuffer` takes impressions off the request's path.
"""

from recsys.eventlog.base import EventLog, LogUnavailable
from recsys.eventlog.buffer import ImpressionBuffer
from recsys.eventlog.records import EVENT, FORGET, IMPRESSION, ITEM, Entry, LogRecord

__all__ = [
    "EVENT",
    "FORGET",
    "IMPRESSION",
    "ITEM",
    "Entry",
    "EventLog",
    "ImpressionBuffer",
    "LogRecord",
    "LogUnavailable",
]
