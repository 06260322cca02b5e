"""Errors as RFC 9457 problem details."""

from collections.abc import Mapping, Sequence

from recsys.data_schemas.api import FieldError, ProblemDetails
from recsys.data_schemas.errors import UsageError

TITLES = {
    400: ("malformed-request", "The request cannot be read"),
    401: ("key-required", "A valid API key is required"),
    403: ("scope-required", "The key does not allow this"),
    404: ("not-found", "There is nothing here"),
    405: ("method-not-allowed", "The method is not allowed here"),
    408: ("request-timeout", "The request did not arrive in time"),
    409: ("conflict", "The request conflicts with the service's state"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-media-type", "The content type is not supported"),
    421: ("misdirected-request", "This host is not served here"),
    422: ("invalid-request", "The request is not valid"),
    431: ("head-too-large", "The head of the request is too large"),
    500: ("internal-error", "The service failed"),
    503: ("unavailable", "The service cannot answer now"),
}


class Problem(Exception):
    """An answer that is an error; raised anywhere under a handler."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.errors, self.headers = errors, headers

    def document(self) -> ProblemDetails:
        """The body of the answer."""
        slug, title = TITLES[self.status]
        return ProblemDetails(
            type=f"urn:recsys:problem:{slug}",
            title=title,
            status=self.status,
            detail=self.detail,
            errors=[FieldError(pointer=pointer, detail=text) for pointer, text in self.errors],
        )


def unavailable(detail: str, retry_after: int = 1) -> Problem:
    """503 with the time after which to try again, seconds."""
    return Problem(503, detail, headers={"retry-after": str(retry_after)})


def refused(error: UsageError) -> Problem:
    """422 for a call that the engine finds wrong: a filter, a cap or a field it does not know."""
    place = f"$.{error.where}" if error.where else "$"
    detail = f"{error.what}: {error.found!r}; expected {error.expected}"
    return Problem(422, detail[:2000], [(place, str(error.found))])
