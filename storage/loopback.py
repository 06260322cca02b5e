"""Calls to this very machine go there, whatever proxy the environment names for the others.

A corporate `http_proxy` without `no_proxy` would be asked for 127.0.0.1, which there is the proxy.
"""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_here(url: str) -> bool:
    """Whether an address is one of this machine alone."""
    return is_loopback(urlsplit(url).hostname or "")


def exempt(url: str) -> None:
    """Let libraries that read the environment call an address of this machine directly, from now on
    in this process and those it starts."""
    host = urlsplit(url).hostname or ""
    if not is_loopback(host):
        return
    for name in ("no_proxy", "NO_PROXY"):
        known = [part for part in os.environ.get(name, "").split(",") if part]
        if host not in known:
            os.environ[name] = ",".join([*known, host])
