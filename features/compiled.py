"""Functions compiled to machine code on first use: without the interpreter's lock, kept on disk
between runs, with their types kept for the type checker.

What lies in numba's cache is run when it is read. Beside our own files nobody writes who could not
change those; a folder that is named (`NUMBA_CACHE_DIR`) must be this user's alone.
"""

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba

from recsys.storage.files import fault_of_own_folder

CACHE_DIR: Final = "NUMBA_CACHE_DIR"
F = TypeVar("F", bound=Callable[..., Any])


def own_folder(wanted: str) -> str:
    """The folder, made where it is missing, if only this user can write there; else a new one for this
    process."""
    fault = fault_of_own_folder(wanted)
    if fault is None:
        return wanted
    folder = tempfile.mkdtemp(prefix="recsys-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    warnings.warn(
        f"compiled kernels are not kept: {CACHE_DIR} is {wanted}, and {fault}",
        RuntimeWarning,
        stacklevel=2,
    )
    return folder


if CACHE_DIR in os.environ:
    # The variable too: it is read again, and by the processes that this one starts.
    numba.config.CACHE_DIR = os.environ[CACHE_DIR] = own_folder(os.environ[CACHE_DIR])


def compiled(function: F) -> F:
    """Additions in the order they are written."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def reassociating(function: F) -> F:
    """Sums the compiler may reorder into vector lanes, the same way in each call.

    Where another kernel calls it, it is a part of that kernel. As a function apart it would be there
    twice, optimised once and twice: the process that compiled both would run the first, one that reads
    the caller from the cache the second, and their last bits would differ (seen).
    """
    flags = {"reassoc", "contract"}
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=flags, forceinline=True)(function))


def finite(function: F) -> F:
    """As `reassociating`, for numbers that are finite: divisions are not checked either."""
    options = {"fastmath": True, "error_model": "numpy", "forceinline": True}
    return cast(F, numba.njit(cache=True, nogil=True, **options)(function))
