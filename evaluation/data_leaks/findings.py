"""What a check of the tables found."""

from typing import NamedTuple

from recsys.evaluation.report_context import DROP, WARN, Check


class Finding(NamedTuple):
    """One check with, where an attribute has to be left out, its table and column."""

    check: Check
    table: str = ""
    column: str = ""

    @property
    def leaves_out(self) -> bool:
        """Whether a night goes on without the column."""
        return not self.check.passed and self.check.outcome == DROP

    def as_warning(self) -> "Finding":
        """The same where too little is known to refuse a model for it."""
        if not self.check.refuses:
            return self
        detail = f"{self.check.detail} (of so few users a warning)"
        return self._replace(check=self.check._replace(outcome=WARN, detail=detail))

    @classmethod
    def passed(cls, name: str, detail: str) -> "Finding":
        return cls(Check(name, True, detail))

    @classmethod
    def failed(cls, name: str, detail: str, outcome: str) -> "Finding":
        return cls(Check(name, False, detail, outcome))
