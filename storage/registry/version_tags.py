"""What the registry holds: versions, aliases, the history of champions."""

import getpass
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.errors import RecsysError

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
IN_TRIAL: Final = "in_trial"
"""The challenger of the running experiment, so that it is kept."""
HELD_AGAINST: Final = "held_against"
"""Its control, where that is one version."""
DIGEST_TAG: Final = "recsys.digest"
METRICS_TAG: Final = "recsys.metrics"
REPORT_TAG: Final = "recsys.report"
GATE_TAG: Final = "gate"
"""What the gate decided on the version."""
RECIPE_TAG: Final = "recsys.recipe"
"""Names the recipe a version was made by: settings, tuned params, encoder; not the data."""
AGAINST_TAG: Final = "recsys.against"
"""The champion whose lists lie beside the version's own in its report."""
CAPS_TAG: Final = "recsys.caps"
"""The caps under which its night's lists were made, as JSON; lists under others are no comparison."""
OWNER_TAG: Final = "recsys.owner"
"""Identity of the workspace that registered a version; nobody else deletes it."""
LOCATION_TAG: Final = "recsys.location"
"""Where its files lie, relative to the folder of artifacts, when that is a local one."""
STALE_TAG: Final = "recsys.retrain"
"""Why a version should be retrained (a person in its data was forgotten)."""
HISTORY_TAG: Final = "recsys.history."


class RegistryError(RecsysError):
    """The registry does not answer, or not as it should (exit code 1)."""


@dataclass(frozen=True)
class Version:
    """One registered release."""

    version: int
    created_at: str
    digest: str
    aliases: tuple[str, ...]
    metrics: Mapping[str, Any]
    tags: Mapping[str, str]
    source: str
    """Where its files lie, as MLflow says."""
    run_id: str | None

    @property
    def report(self) -> str | None:
        return self.tags.get(REPORT_TAG)

    @property
    def owner(self) -> str | None:
        """The workspace that registered it; None where an earlier release of ours did."""
        return self.tags.get(OWNER_TAG)

    @property
    def retrain(self) -> str | None:
        """Why it should be retrained, when it should."""
        return self.tags.get(STALE_TAG)

    @classmethod
    def of(
        cls,
        number: int,
        created_ms: int,
        tags: Mapping[str, str],
        aliases: Mapping[str, int],
        source: str,
        run_id: str | None,
    ) -> "Version":
        """A version from what either way of reading gives.

        Args:
            number: of the version, from 1.
            created_ms: ms UTC.
            tags: the version's tags as MLflow keeps them.
            aliases: alias → version number, of the whole model.
            source: address of the version's artifacts.
            run_id: run that registered it; None where unknown.
        """
        created = datetime.fromtimestamp(created_ms / 1000, UTC)
        return cls(
            version=number,
            created_at=created.isoformat(timespec="seconds"),
            digest=tags[DIGEST_TAG],
            aliases=tuple(sorted(alias for alias, v in aliases.items() if v == number)),
            metrics=json.loads(tags.get(METRICS_TAG) or "{}"),
            tags=dict(tags),
            source=source,
            run_id=run_id,
        )


def user_name() -> str:
    """Who makes a change; the number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@dataclass(frozen=True)
class Change:
    """One change of champion."""

    at: str
    action: str
    """`promote` or `rollback`."""
    version: int
    before: int | None
    reason: str
    by: str = field(default_factory=user_name)

    @classmethod
    def now(cls, action: str, version: int, before: int | None, reason: str) -> "Change":
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(at, action, version, before, redacted(reason)[:2000])

    def same_as(self, other: "Change") -> bool:
        """Whether both say the same change, whenever it was made."""
        return (self.action, self.version, self.before) == (
            other.action,
            other.version,
            other.before,
        )


Versions = list[Version]
Changes = list[Change]
