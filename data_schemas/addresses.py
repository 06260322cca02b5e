"""Addresses without their secrets: the one place that decides what of an address may be shown.

Everything that is printed, logged, reported or kept about a run goes through `redacted` (texts) or
`redact` (JSON values): stages and their keys, errors, the terminal, traces, notes, the registry.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

HIDDEN: Final = "***"
ESCAPES: Final = "in a name or password, @ is written %40, : %3A, / %2F, ? %3F, # %23 and % %25"

_WORDS: Final = (
    r"(?:[\w.-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|signature"
    r"|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key))"
)
"""Names whose value is a secret, with what stands before them (`sslpassword`, `X-Amz-Signature`)."""
_USERINFO: Final = re.compile(
    r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]*://)(?!/)([^\s'\"<>`]*)@", re.IGNORECASE
)
_BARE_USERINFO: Final = re.compile(r"(?<![\w/:.+-])([\w.+-]+):(?!/)([^\s'\"<>`@]+)@(?=[\w.\[-])")
_QUERY: Final = re.compile(
    rf"([?&;](?:{_WORDS}|key|sig|auth|code)=)([^\s&;'\"<>`]+)", re.IGNORECASE
)
_SETTING: Final = re.compile(
    rf"((?<![\w.?&;-]){_WORDS}\s?=\s?)('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&)'\"]+)",
    re.IGNORECASE,
)
"""`password=…`, as libpq and keyword arguments write it."""
_MEMBER: Final = re.compile(
    rf"((['\"]){_WORDS}\2\s?:\s?)('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[\w.+-]+)", re.IGNORECASE
)
"""`'password': '…'`, as Python and JSON write a mapping."""


def redacted(text: str) -> str:
    """A text in which no address shows more than its user's name.

    Hidden are the userinfo of addresses (of web addresses the name too, which may be a token),
    query parameters, libpq settings and members of mappings that are named like a secret.

    >>> redacted("no answer from postgresql://shop:hunter2@db/log?sslmode=require&sslpassword=x1")
    'no answer from postgresql://shop:***@db/log?sslmode=require&sslpassword=***'
    >>> redacted("https://ghp_1234@host/ and host=db password='a b' and {'token': 'x'}")
    "https://***@host/ and host=db password=*** and {'token': '***'}"
    """
    if "@" in text:
        text = _USERINFO.sub(_without_password, text)
        text = _BARE_USERINFO.sub(rf"\1:{HIDDEN}@", text)
    if "=" in text:
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
        text = _SETTING.sub(rf"\1{HIDDEN}", text)
    if ":" in text:
        text = _MEMBER.sub(rf"\1'{HIDDEN}'", text)
    return text


def redact(value: Any) -> Any:
    """A JSON value with every text in it redacted, the keys of mappings too."""
    match value:
        case str():
            return redacted(value)
        case Mapping():
            return {redact(key): redact(item) for key, item in value.items()}
        case list() | tuple():
            return [redact(item) for item in value]
    return value


def _without_password(found: re.Match[str]) -> str:
    """The user's name of an address stays, but not of a web address: there it may be a token."""
    scheme, userinfo = found[1], found[2]
    name, separator, _ = userinfo.partition(":")
    if scheme.lower().startswith("http") or not name.replace("%", "").isidentifier():
        return f"{scheme}{HIDDEN}@"
    return f"{scheme}{name}:{HIDDEN}@" if separator else found[0]


def problem_of(address: str) -> str | None:
    """What is wrong with how an address writes its password; None where nothing is.

    An unescaped `@`, `/`, `?` or `#` in a password ends it early for whoever reads the address, and
    the rest of it turns up as a host, a port or a path, in messages that cannot know.

    >>> problem_of("postgresql://shop:p@ss@db/log") is None
    False
    >>> problem_of("postgresql://shop:p%40ss@one:5432,two/log")
    """
    if "://" not in address:
        return None
    authority, *rest = re.split(r"[/?#]", address.split("://", 1)[1], maxsplit=1)
    userinfo, _, hosts = authority.rpartition("@")
    ports = [host.rpartition(":")[2] for host in hosts.split(",") if re.search(r":[^\]]*$", host)]
    cut_short = not userinfo and bool(ports) and "@" in "".join(rest)
    if "@" in userinfo or cut_short or not all(port.isdecimal() or not port for port in ports):
        return f"scheme://user:password@host:port/…; {ESCAPES}"
    return None
