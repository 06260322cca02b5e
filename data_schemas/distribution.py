"""The name that pip knows this package by. The command and the import are `recsys`, which on the
package index is somebody else's.
"""

from typing import Final

DISTRIBUTION: Final = "recsys-nightly"


def install_extra(extra: str) -> str:
    """The command that adds an extra.

    >>> install_extra("spark")
    "pip install 'recsys-nightly[spark]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"
