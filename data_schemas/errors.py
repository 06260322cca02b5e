"""The one exception a user can cause, with what they need to act on it.

Every message says where, what was found, what was expected and what to do, and shows no secret of
an address. The command line turns it into one paragraph and an exit code; the service turns it into
an RFC 9457 problem document.
Bugs of ours are asserts and ordinary exceptions, never this class.
"""

from enum import IntEnum

from recsys.data_schemas.addresses import redact, redacted


class ExitCode(IntEnum):
    """Exit codes of the command line; schedulers rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DATA_REFUSED = 3
    PROMOTION_REFUSED = 4


class RecsysError(Exception):
    """A problem the caller can fix.

    Args:
        what: what is wrong, in one clause.
        where: file, table, field or stage, as the user knows it.
        found: what was there.
        expected: what would have been right.
        fix: what to do.
        code: exit code of the command that meets it.
    """

    code: ExitCode = ExitCode.FAILED

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
        code: ExitCode | None = None,
    ) -> None:
        self.what: str = redacted(what)
        self.where: str | None = redact(where)
        self.found, self.expected = _shown(found), _shown(expected)
        self.fix: str | None = redact(fix)
        if code is not None:
            self.code = code
        super().__init__(self.render())

    def render(self) -> str:
        """The message as printed: one labelled line per known fact."""
        lines = [self.what]
        for label, fact in (
            ("where", self.where),
            ("found", self.found),
            ("expected", self.expected),
            ("do", self.fix),
        ):
            if fact is not None:
                lines.append(f"  {label + ':':<10}{fact}")
        return redacted("\n".join(lines))


def _shown(fact: object) -> object:
    """A fact as it may be shown: numbers stay numbers, an exception becomes its words."""
    return redacted(str(fact)) if isinstance(fact, Exception) else redact(fact)


class UsageError(RecsysError):
    """The call or the config is wrong (exit code 2)."""

    code = ExitCode.USAGE


class DataRefused(RecsysError):
    """The data is refused (exit code 3)."""

    code = ExitCode.DATA_REFUSED
