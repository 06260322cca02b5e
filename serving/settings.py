"""Everything the service can be told, in one frozen value."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recsys.data_schemas.api import Rule
from recsys.data_schemas.shards import Shards
from recsys.serving.experiments import Experiments, OfTheCommandLine


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of one worker. Times in seconds unless the name says otherwise."""

    timeout_ms: int = 2000
    """Time budget of one request; optional parts are dropped when it runs out."""
    max_body_bytes: int = 2_000_000
    max_candidates: int = 2000
    """Items of one rank request."""
    max_queue: int = 64
    """Requests in flight before further ones are answered 503."""
    explain_items: int = 10
    """Items explained when a request says `explain: true`."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """Column → items of one value at most in a recommended list, where a request names none."""
    rules: tuple[Rule, ...] = ()
    """Wishes about every recommended list, after those of its request."""
    explore_share: float = 0.0
    """Share of lists in which one neighbouring pair is swapped at random."""
    parity_share: float = 0.01
    """Share of lists whose feature rows are logged, to be recomputed at night."""
    parity_rows: int = 10
    """Feature rows logged per sampled list."""
    clock: str = "wall"
    """`wall`, or `end_of_data`: frozen at the end of the champion's data, strictly increasing."""
    keys_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    """Host names answered; empty answers all. Set on loopback without keys, against rebinding."""
    champion_poll: float = 5.0
    """Between two looks for a new champion."""
    log_poll: float = 0.25
    """Between two looks at the log for other workers' records."""
    pinned_versions: int = 2
    """Versions kept open beside the champion for `model_version`, the latest used."""
    shadow: str | None = None
    """Version that ranks along; only differences are logged."""
    ab: tuple[str, float] | None = None
    """(version, share of users) of an A/B experiment; users are assigned by hash."""
    interleave: str | None = None
    """Version interleaved with the champion by team draft."""
    experiments: Experiments | None = None
    """Experiments that were started in the workspace; `ab` and `interleave` come before them."""
    access_log: bool = False
    """Whether each request gets a log line; errors and slow ones always do."""
    shards: Shards | None = None
    """Whose histories this worker keeps; everybody's when None."""
    opted_out: Container[str] = frozenset()
    """Users who are answered as somebody new."""
    body_timeout: float = 10.0
    """For a request's body to arrive."""
    head_timeout: float = 10.0
    """For a request's head to arrive, from the connection or the head's first byte on."""
    max_head_bytes: int = 32_768
    """Of a request's first line and headers."""
    max_connections: int = 1024
    """Connections open at once, those that wait for their callers included."""
    max_partial_bytes: int = 64_000_000
    """Bytes of all bodies together that are not whole yet."""
    answer_timeout: float = 60.0
    """For an answer to be taken by its caller."""
    drain_seconds: int = 20
    """For requests in flight when the process is asked to stop."""

    def keeps(self, user_id: str) -> bool:
        """Whether a user's history is kept here."""
        return self.shards is None or self.shards.holds(user_id)

    @property
    def trials(self) -> Experiments:
        """Where the running experiment is found."""
        if self.ab is not None or self.interleave or self.experiments is None:
            return OfTheCommandLine(self.ab, self.interleave)
        return self.experiments
