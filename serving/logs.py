"""One JSON line per happening on standard error. No ids of users or items, no texts, no keys, no
passwords of addresses."""

import sys
import time

import msgspec

from recsys.data_schemas.addresses import redacted

_encode = msgspec.json.Encoder(enc_hook=str).encode


def log(level: str, event: str, **facts: object) -> None:
    """Write a line: `event` names what happened, `facts` are numbers and names of ours."""
    line = {"time": round(time.time(), 3), "level": level, "event": event, **facts}
    sys.stderr.write(redacted(_encode(line).decode()) + "\n")
