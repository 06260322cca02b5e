"""What the client repeats, how often, and what it raises when it gives up."""

import random
import threading
from collections.abc import Mapping

import httpx
import msgspec

from recsys.data_schemas.api import ProblemDetails
from recsys.data_schemas.errors import RecsysError

RETRIED = frozenset({408, 429, 502, 503, 504})
"""Answers after which the same call may succeed; every call of the API may be repeated."""
LONGEST_PAUSE = 5.0
"""Seconds; a longer Retry-After is not waited for."""


class ApiError(RecsysError):
    """The service refused a call, or could not be reached.

    `status` is the HTTP status, None when there was no answer; `problem` its problem details.
    """

    def __init__(self, what: str, status: int | None, problem: ProblemDetails | None) -> None:
        self.status, self.problem = status, problem
        place = problem.errors[0].pointer if problem and problem.errors else None
        super().__init__(what, where=place, found=None if status is None else f"HTTP {status}")


class RetryBudget:
    """How many repetitions a client may spend: a share of its calls, and a few to begin with.

    A service in trouble then gets at most `share` more calls than usual instead of a multiple.
    Thread-safe.
    """

    def __init__(self, share: float = 0.1, reserve: float = 10.0) -> None:
        self._share, self._limit = share, reserve
        self._tokens = reserve
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A call was made."""
        with self._lock:
            self._tokens = min(self._limit, self._tokens + self._share)

    def spend(self) -> bool:
        """Take one repetition; False when there is none left."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


def pause(attempt: int, headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before repetition `attempt` (from 0); None when that is too long."""
    asked = headers.get("retry-after", "")
    if asked.isdigit():
        return float(asked) if float(asked) <= LONGEST_PAUSE else None
    return float(min(LONGEST_PAUSE, 0.05 * 2**attempt) * random.uniform(0.5, 1.0))


def error_of(answer: httpx.Response) -> ApiError:
    """The exception of an answer that is an error."""
    try:
        problem = msgspec.json.decode(answer.content, type=ProblemDetails)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ApiError(f"the service answered {answer.status_code}", answer.status_code, None)
    return ApiError(problem.detail, answer.status_code, problem)


def unreachable(error: Exception) -> ApiError:
    """The exception of a call without an answer."""
    late = isinstance(error, httpx.TimeoutException)
    what = "did not answer in time" if late else "could not be reached"
    return ApiError(f"the service {what}: {error}", None, None)
