"""Functions compiled to machine code, with their types kept for the type checker."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile on first use without holding the interpreter's lock; kept on disk between runs."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
