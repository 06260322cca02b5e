"""Functions compiled to machine code on first use: without the interpreter's lock, kept on disk
between runs, with their types kept for the type checker."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Additions in the order they are written."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def reassociating(function: F) -> F:
    """Sums the compiler may reorder into vector lanes, the same way in each call."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})(function))


def finite(function: F) -> F:
    """As `reassociating`, for numbers that are finite: divisions are not checked either."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")(function))
