"""Telling somebody how the night went: one JSON document to one webhook.

A webhook that does not answer is a warning and nothing more: the night's result stands.
"""

import json
import socket
import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlparse

import httpx

from recsys.data_schemas.addresses import redact
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import UsageError
from recsys.storage.files import plain
from recsys.storage.loopback import is_here
from recsys.storage.progress import Reporter

Outcome = Literal["promoted", "challenger", "refused", "failed"]

TIMEOUT_SECONDS = 10.0
ATTEMPTS = 3
PAUSE_SECONDS = 1.0


def notify(
    config: RecsysConfig, outcome: Outcome, facts: Mapping[str, Any], reporter: Reporter
) -> bool:
    """Post `facts` to the configured webhook when it wants this outcome; whether it was accepted.

    The body: `{"outcome", "model", "host", "text", **facts}`; `text` is one readable line, which
    is what chat services show.

    Raises:
        UsageError: the configured address is no http(s) URL.
    """
    url = config.notify.webhook
    if url is None or outcome not in config.notify.on:
        return False
    if urlparse(url).scheme not in ("http", "https"):
        raise UsageError(
            "the webhook is not a web address",
            where="notify.webhook",
            found=urlparse(url).scheme or "no scheme",
            expected="https://…",
        )
    body = {
        "outcome": outcome,
        "model": config.name,
        "host": socket.gethostname(),
        "text": _line(config.name, outcome, redact(plain(facts))),
        **redact(plain(facts)),
    }
    error = _post(url, json.dumps(body, ensure_ascii=False).encode("utf-8"))
    if error is not None:
        # The path of a webhook is often its secret: only the host is said.
        reporter.warn(f"the webhook at {urlparse(url).hostname} did not accept the note: {error}")
    return error is None


def _line(name: str, outcome: Outcome, facts: Mapping[str, Any]) -> str:
    version, reason = facts.get("version"), facts.get("reason")
    subject = f"{name} version {version}" if version is not None else f"the night of {name}"
    words = {
        "promoted": "is the new champion",
        "challenger": "is kept as challenger",
        "refused": "was refused by the gate",
        "failed": "failed",
    }[outcome]
    return f"recsys: {subject} {words}" + (f": {reason}" if reason else "")


def _post(url: str, body: bytes) -> str | None:
    """None when accepted, otherwise why not; what may pass is tried again."""
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "recsys"}
    error = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            answer = httpx.post(
                url,
                content=body,
                headers=headers,
                timeout=TIMEOUT_SECONDS,
                follow_redirects=True,
                # A proxy of the environment is for other machines.
                trust_env=not is_here(url),
            )
        except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as problem:
            # The last three: a proxy or certificate of the environment that cannot be used.
            error = str(problem) or type(problem).__name__
            continue
        if answer.is_success:
            return None
        error = f"HTTP {answer.status_code}"
        if answer.status_code < 500 and answer.status_code != 429:
            break
    return error
