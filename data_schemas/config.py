"""The one YAML of a workspace, checked before any work starts.

Unknown keys are refused with the nearest known name; paths are relative to the YAML's own folder.
The smallest useful file is `data: {items: data/items.parquet, events: data/events.parquet}`.
"""

import copy
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from recsys.data_schemas.addresses import problem_of, redacted
from recsys.data_schemas.api import Rule, Rules
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.meaning import DEFAULT_RATINGS, DEFAULT_TYPES, STARS, EventMeaning, Scale
from recsys.data_schemas.yaml_text import read_yaml

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


def _sound_address(address: str) -> str:
    problem = problem_of(address)
    if problem is not None:
        raise ValueError(problem)
    return address


Address = Annotated[str, AfterValidator(_sound_address)]
"""A URL that may hold a password; one whose password would be read wrongly is refused."""


RETIRED: Final = {
    ("features", "history_length"): "nothing reads it: every model has a history length of its own"
}
"""Settings of earlier versions, by section and key, with what their owner should know. They are let
go and noted, so that a file which names one still works."""


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SqlTable(Section):
    """A table as the rows of a query."""

    sql: str = Field(min_length=1)
    """One SELECT, run by `data.connection` where there is one, else by the engine (`engine.kind`: DuckDB,
    whose paths are relative to the YAML, or Spark SQL)."""

    @property
    def query(self) -> str:
        """The query, to stand within another."""
        return self.sql.strip().rstrip(";").rstrip()

    @property
    def label(self) -> str:
        """The query as messages name it."""
        text = " ".join(self.sql.split())
        return f"`{text[:QUERY_SHOWN]}{'…' if len(text) > QUERY_SHOWN else ''}`"


QUERY_SHOWN: Final = 80
"""Characters of a query that a message shows."""


def _form_of(given: object) -> str:
    return SqlTable.__name__ if isinstance(given, Mapping | SqlTable) else str.__name__


TableSource = Annotated[
    Annotated[str, Tag(str.__name__)] | Annotated[SqlTable, Tag(SqlTable.__name__)],
    Discriminator(_form_of),
]
"""A place, or a query; a wrong one is told of its own form alone."""


class DataConfig(Section):
    items: TableSource
    """Parquet file, folder, glob or address (`s3://shop/items`) of items; `connection` table name; or
    `{sql: SELECT …}`."""
    events: TableSource
    """The same of events; a folder may be partitioned by day."""
    impressions: TableSource | None = None
    """What was shown, where it was recorded."""
    users: TableSource | None = None
    """Attributes of users."""
    connection: Address | None = None
    """Ibis connection URL; then the four names above are its tables or queries."""
    quarantine_limit: Share = 0.05
    """Share of a table's rows that may break a rule before the run stops."""


class EventTypeConfig(Section):
    weight: float = 1.0
    """Weight for collaborative training."""
    grade: int = Field(default=1, ge=-1, le=10)
    """Relevance grade as a label: -1 dislike, 0 neutral, 1.. positive."""
    rating: bool | None = None
    """Whether `value` is a rating; when absent, by name: rating, rate, review or stars."""
    scale: tuple[float, float] | None = None
    """Worst and best rating, such as [1, 10] or [-1, 1]; read off the values when absent."""

    @model_validator(mode="after")
    def _whole(self) -> "EventTypeConfig":
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError("scale is [worst, best], the smaller number first")
        if self.scale is not None and self.scale[1] <= 0:
            raise ValueError("the best rating of a scale is above 0")
        if self.scale is not None and self.rating is False:
            raise ValueError("a scale belongs to a rating; remove it, or `rating: false`")
        return self


class EventsConfig(Section):
    types: dict[str, EventTypeConfig] = {}
    """The caller's event types; those not named keep their defaults."""
    replace_defaults: bool = False
    """Whether `types` replaces all that is known by default (which types there are, what they count,
    which names are ratings) instead of extending it."""

    def meaning(self) -> EventMeaning:
        """What events mean as far as the config says; see `EventMeaning.with_scales`."""
        table = {} if self.replace_defaults else dict(DEFAULT_TYPES)
        table |= {name: (t.weight, t.grade) for name, t in self.types.items()}
        ratings: dict[str, Scale | None] = {} if self.replace_defaults else dict(DEFAULT_RATINGS)
        for name, declared in self.types.items():
            if declared.rating is False:
                ratings.pop(name, None)
            elif declared.rating or declared.scale is not None:
                ratings[name] = declared.scale or STARS
        return EventMeaning(table, ratings)

    def unscaled(self) -> tuple[str, ...]:
        """Types that are ratings and whose scale the config does not give."""
        given = {name for name, declared in self.types.items() if declared.scale is not None}
        return tuple(name for name in self.meaning().ratings if name not in given)


class WindowsConfig(Section):
    scheme: Literal["auto", "time", "ordinal"] = "auto"
    """Labels after dates (`time`), each user's last events (`ordinal`), or read off the data."""
    cuts: Positive | None = None
    """Rolling cuts of the test window, pooled; chosen from the data when absent."""
    floor_share: Share = 0.02
    """Least share of groups with users, and of labels with items, that the fit has not seen."""


class FeaturesConfig(Section):
    bucket: Literal["minute", "hour", "day"] = "hour"
    """Granularity of counters."""
    windows: tuple[str, ...] = ("1d", "7d", "30d")
    """Windows of counters; `all` is always there."""
    own: tuple[str, ...] = ()
    """Your own features, as `package.module:ClassName` or by name of an entry point."""

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, given: Any) -> Any:
        """Without settings of earlier versions, which kept configs and snapshots still hold."""
        if not isinstance(given, Mapping):
            return given
        return {key: value for key, value in given.items() if ("features", key) not in RETIRED}


class EncoderConfig(Section):
    model: str = "default"
    """`default` (bundled MiniLM-L6), a Hugging Face name, or a local directory (relative to the YAML); `auto`:
    MiniLM, which on a GPU learns from a teacher too."""
    teacher: str | None = None
    """A larger model, a name or a directory like `model`, that is tuned with LoRA and from which `model` learns
    before its own tuning; it never serves. With `model: auto` on a GPU only, and one of a few known models
    that was downloaded before where none is named."""
    template: str = "{title}. {tags}. {category}. {description}"
    """Text of an item; a part that is empty drops out with its punctuation."""
    max_tokens: int = Field(default=96, ge=8, le=8192)
    """Tokens of a text; longer ones are cut and counted."""
    freeze: Literal["head", "last_n", "lora", "full"] = "last_n"
    """What is tuned."""
    last_n: int = Field(default=2, ge=0)
    """Tuned top layers when `freeze` is `last_n`."""
    loss: Literal["sampled_softmax", "bce"] = "sampled_softmax"
    batch_size: Positive = 1024
    """(history, candidate) pairs per step."""
    step_tokens: int = Field(default=8192, ge=64)
    """Tokens of the distinct items that one step encodes anew; its other items are read from a bank."""
    negatives: Positive = 2048
    """Items drawn by popularity as further candidates of a step, from the bank."""
    hard_negatives: int = Field(default=0, ge=0, le=20)
    """Items per example that recall ranks high and the user never acted on, as further negatives."""
    logq: Share = 1.0
    """Strength of the logQ correction: 1 learns P(item | user), 0 leaves popularity out."""
    head_steps: int = Field(default=300, ge=0)
    """Steps of head and user tower over the frozen encoder, before its layers join."""
    validate_every: Positive = 25
    """Steps between validations, at most."""
    learning_rate: float = Field(default=3e-5, gt=0)
    """Of the top layer; each one below learns at 0.9 of the one above."""
    head_learning_rate: float = Field(default=1e-3, gt=0)
    """Of head and user tower."""
    weight_decay: float = Field(default=0.01, ge=0)
    dropout: Share = 0.0
    """In the tuned layers; fits are short and few passes overfit little."""
    warmup_share: Share = 0.1
    epochs: Positive = 3
    max_steps: Positive | None = None
    """Upper bound of optimisation steps; the time budget may stop earlier."""
    patience: Positive = 3
    """Validations without a better nDCG before stopping."""
    history_length: Positive = 20
    """History items the user tower attends to."""
    refresh_days: float = Field(default=7.0, ge=0)
    """Days of data after which the encoder is due for a refresh."""
    fine_tune: bool = True
    """Off: the pre-trained encoder is used as it is."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    inference: Literal["float32", "int8"] = "float32"
    """Precision of the vectors on a CPU; `int8` only where its vectors agree on your own texts."""
    gradient_checkpointing: bool = False
    compile: bool = False
    tensorboard: bool = False
    """Whether curves also go to TensorBoard's files in the workspace (needs the package)."""


class SourcesConfig(Section):
    use: tuple[str, ...] | None = None
    """Names of the sources to fit; all that fit the data and the budget when absent."""
    own: tuple[str, ...] = ()
    """Your own sources, as `package.module:ClassName` or by name of an entry point."""
    dials: dict[str, dict[str, float]] = {}
    """Fixed parameters by source; those absent are tuned."""
    tune: bool = True
    """Whether parameters are chosen on an internal out-of-time window."""
    full_refit: Literal[
        "always",
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
        "never",
    ] = "sunday"
    """When fits that could go on from an earlier night's weights start from scratch: every night, in
    the first night whose data reaches into that weekday (UTC), or never."""
    depth: Positive = 300
    """Items each source may propose."""
    recall_days: float | None = Field(default=None, ge=0)
    """What lists are made of: items that somebody has acted on, and those created within so many days; the
    others are scored where they are asked for, by id or text. All items when absent."""
    candidates: int = Field(default=200, ge=1, le=10_000)
    """Items kept after fusing the sources' ranks; LightGBM takes 10,000 of a group."""


class RankerConfig(Section):
    trees: Positive = 300
    """Upper bound of trees; early stopping decides."""
    leaves: Positive = 15
    learning_rate: float = Field(default=0.05, gt=0)
    seeds: Positive = 2
    """Boosters averaged."""
    search_minutes: float = Field(default=0.0, ge=0)
    """Optuna's budget; 0 keeps the settings above."""
    max_groups: Positive = 20_000
    """Ranking groups with something to learn (recall found what was acted on) at most; a random
    sample beyond."""
    cold_cost: Share = 0.02
    """Share of the nDCG@10 on items with events that may be paid, in the ranker's practice, to list new
    items higher. In practice, where histories were shorter, it costs up to twice as much as it does
    on the lists that are asked for later (measured)."""
    refit_all: bool | Literal["auto"] = "auto"
    """Whether the released ranker is fitted again, by the recipe that was judged, on the tested window's groups
    too; `auto`: where they are at least a fifth as many as it learned from."""
    debias: bool = True
    """Where impressions tell how likely a place is to be looked at, labels weigh by it."""


class MetricsConfig(Section):
    own: tuple[str, ...] = ()
    """Your own metrics, as `package.module:function` or by name of an entry point."""


class HooksConfig(Section):
    on_stage_end: tuple[str, ...] = ()
    """Called with each stage's name, seconds and facts, as `package.module:function`."""
    on_report: tuple[str, ...] = ()
    """Called with the path of the night's report."""
    before_promote: tuple[str, ...] = ()
    """Called before a version is promoted; a reason returned, as text, keeps the champion."""


class EvaluationConfig(Section):
    k: tuple[Positive, ...] = (10, 100)
    bootstrap: Positive = 1000
    """Resamples of users for each interval."""
    segments: tuple[str, ...] = ()
    """Own columns of items or users to report by."""
    metrics: MetricsConfig = MetricsConfig()
    max_users: Positive = 10_000
    """Test users at most; a random sample beyond, said on the page."""
    examples: Positive = 5


class GateConfig(Section):
    metric: str = Field(default="ndcg@10", pattern=r"^[a-z]\w*@([1-9]\d?|100)$")
    """What candidate and champion are compared by: ndcg, recall, precision, hit_rate or mrr @ 1..100."""
    margin: Share = 0.02
    """Non-inferiority margin: largest relative loss against the champion that is tolerated."""
    segment_margin: Share = 0.10
    """The same for a protected segment."""
    min_group: Positive = 50
    """Users a segment needs before its rule applies."""
    protected: tuple[str, ...] = ("new_users", "cold_items", "masked_cold_items")
    """Labels of segments with a rule of their own: `new_users`, `cold_items`, or a value of one of
    `evaluation.segments`."""
    when_unsure: Literal["auto", "promote", "challenger"] = "auto"
    """What becomes of a candidate where the window, earlier nights included, is too small to see a
    loss of `margin`; `auto` promotes the same recipe on fresher data and keeps a changed recipe as
    challenger."""
    best_of_nights: int = Field(default=14, ge=0)
    """Nights whose best version a candidate may not fall behind, so that small losses do not add up;
    0 for none. Versions and reports of 14 nights are kept."""
    guardrail_margin: Share = 0.25
    """Largest relative loss of catalogue coverage and of diversity against the champion."""
    min_coverage: Share = 0.0
    """Least catalogue coverage at the largest k."""
    max_calibration_error: Share = 0.10
    """Largest expected calibration error, where the scores are chances."""
    max_latency_ms: float = Field(default=250.0, gt=0)
    """Largest median time of one ranking call measured in the run."""
    max_bundle_growth: float = Field(default=3.0, gt=1)
    """Largest size of the bundle, as a multiple of the champion's."""
    min_overlap: Share = 0.08
    """Least share of the evaluated top 10 that the released models still list at the same moments: half
    of what the least of four real nights gave (measured: 71 %, 56 % and 43 %, and 17 % where the test's
    windows reach back over years)."""
    max_unknown_rise: Share = 0.3
    """Largest rise of the share of candidates for which a feature is unknown, from the test to the
    moment at which the release is asked (assumed)."""
    max_score_shift: float = Field(default=3.0, gt=0)
    """Largest shift of the mean score from evaluated to released, in standard deviations."""


class DriftConfig(Section):
    """Limits of the drift table; beyond `stop` a candidate is not promoted over a champion."""

    psi_warn: float = Field(default=0.25, gt=0)
    """PSI of a distribution from which the night warns; 0.25 is the usual "major shift"."""
    psi_stop: float = Field(default=1.0, gt=0)
    """PSI of events, items, texts or languages from which it stops; features and scores only warn."""
    share_warn: Share = 0.10
    """Change of a share (cold items, missing values, new words) from which it warns."""
    share_stop: Share = 0.40
    volume_warn: Share = 0.5
    """Events of the last whole day as a share of the usual, below which it warns."""
    volume_stop: Share = 0.1


class ServingConfig(Section):
    workers: Positive = 1
    timeout_ms: Positive = 2000
    max_body_bytes: Positive = 2_000_000
    max_candidates: Positive = 2000
    max_queue: Positive = 64
    """Requests in flight before overload answers 503."""
    explain_items: Positive = 10
    caps: dict[str, Positive] = {}
    """Column → items of one value at most in a recommended list, `{category: 3}`: the category or a
    text attribute. A request's own `caps` replace them."""
    rules: tuple[dict[str, Any], ...] = ()
    """Wishes about every recommended list, as in a request: `{do: bury, name: clearance, filters:
    {stock: 0}}`; of two about one place the request's holds."""
    explore_share: Share = 0.0
    """Share of lists in which one neighbouring pair is swapped at random, with its propensity."""
    parity_share: Share = 0.01
    """Share of lists whose feature rows are logged; the night recomputes them in batch."""
    log: Address | None = None
    """PostgreSQL URI of the durable log; SQLite in the workspace when absent."""
    log_days: Positive | None = None
    """Whole days that the log keeps after a night has drained them; then they lie in the workspace alone
    (`log/adopted`), and an `event_id` of theirs that is sent again is taken for a new one. All are kept
    when absent."""
    store: str | None = None
    """Folder or URL (`s3://shop/recsys/serving`) where nights and `recsys snapshot` publish state
    snapshots, and workers fetch them that share no disk with the workspace; none when absent."""
    shards: int = Field(default=1, ge=1, le=1024)
    """In how many shards published histories lie; `recsys serve --shards 3/16` keeps one of them."""
    keys_file: str | None = None
    """File of hashed, scoped API keys."""
    cors_origins: tuple[str, ...] = ()
    sentences: str | None = None
    """YAML file of reasons in your own words, by language; ours when absent."""

    @field_validator("rules")
    @classmethod
    def _readable(cls, given: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        read_rules(given)
        return given


def read_rules(given: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Rules of the YAML as a request has them.

    Raises:
        ValueError: one is wrong; it says where.
    """
    try:
        return tuple(msgspec.convert(list(given), Rules))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


class ExperimentsConfig(Section):
    """How an experiment is counted; what holds when it starts holds until its end."""

    unit: Literal["user", "session"] = "user"
    """What is dealt to the arms: a person, or a visit (`session_id`)."""
    denominator: Literal["list", "unit"] = "list"
    """What is counted per: a shown list, or a unit that saw one."""
    count: Literal["once", "all"] = "once"
    """Whether several events of one type count once per list or unit, or all of them."""
    attribution: Literal["shown", "any"] = "shown"
    """`shown`: events on an item that the list held; `any`: all that the person did after it."""
    attribution_hours: float = Field(default=24.0, gt=0, le=24 * 365)
    """Hours after a list in which an event counts as its consequence."""
    metric: str | None = None
    """Event type that decides; every event that is graded positive when absent."""
    margin: float = Field(default=0.02, gt=0, lt=1)
    """Difference, as a share of the control's rate, that is worth being seen."""
    guardrails: dict[str, Share] = {}
    """Event type → largest loss, as a share of the control's rate, that is tolerated."""
    expected_clusters: int = Field(default=10_000, ge=100)
    """Persons at which the interval for every look is narrowest."""


class LiveConfig(Section):
    """The nightly look at what the lists that were shown led to, version by version."""

    days: int = Field(default=7, ge=1, le=90)
    """Days that are joined."""
    on_live_loss: Literal["warn", "rollback"] = "warn"
    """What follows a sure fall of the positive rate against the version before: an alarm, or also the
    way back to it."""
    event: str | None = None
    """Event type whose rate stands beside the positive rate; `click` when absent."""


class TrackingConfig(Section):
    uri: Address | None = None
    """MLflow tracking and registry URI; SQLite in the workspace when absent."""
    artifacts: Address | None = None
    """Artifact location; a folder in the workspace when absent."""
    experiment: str = "recsys"


class NotifyConfig(Section):
    webhook: Address | None = None
    """http(s) address that is sent a JSON note when a night ends."""
    on: tuple[Literal["promoted", "challenger", "refused", "failed"], ...] = (
        "promoted",
        "challenger",
        "refused",
        "failed",
    )
    """Outcomes worth a note."""


class PricesConfig(Section):
    """What things cost you; the report then says what a night costs."""

    currency: str = "EUR"
    processor_hour: float | None = Field(default=None, ge=0)
    """Of one core for an hour."""
    gpu_hour: float | None = Field(default=None, ge=0)
    """Of one GPU for an hour."""
    gb_month: float | None = Field(default=None, ge=0)
    """Of a gigabyte of disk for a month."""


class PrivacyConfig(Section):
    """How long rows about persons are kept, in days from today (UTC); everything when absent."""

    events_days: Positive | None = None
    """What people did."""
    impressions_days: Positive | None = None
    """What was shown to them."""
    sessions_days: Positive | None = None
    """Of an impression: context and surface of the request, and the feature rows that are logged."""
    least_people: Positive = 5
    """Users who must share a text attribute's value before it is used; rarer ones count as unknown,
    so that no model, page or declaration names what only a few people are."""


class SparkConfig(Section):
    """How Spark is reached; `spark-submit`'s own settings where nothing is named."""

    master: str | None = None
    """`yarn`, `k8s://…`, `spark://HOST:PORT`, or `local[4,4]`: 4 tasks at a time, each tried 4 times."""
    remote: str | None = None
    """`sc://HOST:PORT` of a Spark Connect server; instead of `master`."""
    conf: dict[str, str] = {}
    """Settings of Spark, such as `spark.executor.pyspark.memory: 4g`."""

    @model_validator(mode="after")
    def _one_way(self) -> "SparkConfig":
        if self.master is not None and self.remote is not None:
            raise ValueError("name either `master` or `remote`")
        return self


class EngineConfig(Section):
    """Where lists of many users are made, sources asked about a night's moments, pairs of events counted,
    texts encoded and queries run (`data: {events: {sql: …}}`)."""

    kind: Literal["local", "spark"] = "local"
    """`local`: processes of this machine. `spark`: tasks of a Spark cluster."""
    scratch: str | None = None
    """Folder or URL (`s3://shop/recsys`) that all machines reach, for what parts read and leave;
    `scratch` in the workspace when absent."""
    parts: Positive | Literal["auto"] = "auto"
    """In how many parts the users are ranked, what a night asks its sources at a cut, and the items' pairs are
    counted; some 1,000 users, 250 moments or a million events each when `auto`, and a night on `local` then
    asks and counts from threads."""
    spark: SparkConfig = SparkConfig()

    @model_validator(mode="after")
    def _reached(self) -> "EngineConfig":
        master = self.spark.master or ""
        if self.kind == "spark" and self.scratch is None and not master.startswith("local"):
            raise ValueError("Spark's machines need `scratch`, a folder or URL that they all reach")
        return self


class RecsysConfig(Section):
    """The whole of recsys.yaml."""

    data: DataConfig
    workspace: str = "work"
    """Everything a run writes lies here."""
    name: str = Field(default="recsys", pattern=r"^[A-Za-z0-9_.-]{1,100}$")
    """Name of the registered model."""
    clock: Literal["wall", "end_of_data"] = "wall"
    """The service's clock; `end_of_data` freezes it at the data's end, for demonstrations."""
    seed: int = 7
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")
    """Where models are trained and texts encoded: `auto` (CUDA, Apple's MPS or the CPU, the first there is),
    `cpu`, `cuda`, `cuda:1`, `mps`. On a GPU the same minutes buy larger models."""
    budget_minutes: float = Field(default=30.0, gt=0)
    """Time of a night, divided between encoder, sources, tuning and ranker."""
    events: EventsConfig = EventsConfig()
    windows: WindowsConfig = WindowsConfig()
    features: FeaturesConfig = FeaturesConfig()
    encoder: EncoderConfig = EncoderConfig()
    sources: SourcesConfig = SourcesConfig()
    ranker: RankerConfig = RankerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    drift: DriftConfig = DriftConfig()
    serving: ServingConfig = ServingConfig()
    experiments: ExperimentsConfig = ExperimentsConfig()
    live: LiveConfig = LiveConfig()
    tracking: TrackingConfig = TrackingConfig()
    notify: NotifyConfig = NotifyConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    prices: PricesConfig = PricesConfig()
    engine: EngineConfig = EngineConfig()
    hooks: HooksConfig = HooksConfig()

    _folder: Path = Path(".")
    _notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> "RecsysConfig":
        limits = (self.privacy.events_days, self.privacy.impressions_days)
        if self.clock == "end_of_data" and (*limits, self.privacy.sessions_days) != (None,) * 3:
            raise ValueError(
                "privacy counts days from today: with `clock: end_of_data` the data may all be older"
            )
        if self.sources.candidates > 10 * self.sources.depth:
            raise ValueError("sources.candidates cannot exceed 10 × sources.depth")
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What the owner of the file should know, a sentence each."""
        return self._notes

    def path(self, relative: str) -> Path:
        """A path of the YAML, resolved against the YAML's own folder."""
        return (self._folder / relative).resolve()

    @property
    def workspace_path(self) -> Path:
        return self.path(self.workspace)


ENVIRONMENT: Final = "RECSYS__"
"""Variables that begin so are settings: RECSYS__SECTION__KEY."""


def load_config(path: Path | str) -> RecsysConfig:
    """Read and check recsys.yaml, then what the environment says instead (`RECSYS__SERVING__LOG`).

    Raises:
        UsageError: the file is missing, is not YAML, or holds an unknown key or a wrong value.
    """
    file = Path(path)
    try:
        raw = read_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            "there is no config file here",
            where=str(file),
            fix="name one with -c, or make one with `recsys init DIR`",
        ) from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise UsageError(
            "the config file cannot be read", where=str(file), found=str(error)
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}, line {mark.line + 1}" if mark else str(file)
        raise UsageError(
            "the config file is not valid YAML",
            where=place,
            found=getattr(error, "problem", str(error)),
        ) from None
    if not isinstance(raw, dict):
        raise UsageError(
            "the config file holds no settings",
            where=str(file),
            found=type(raw).__name__,
            expected="a mapping such as `data: {items: …, events: …}`",
        )
    raw = with_environment(raw, os.environ)
    return parse_config(raw, folder=file.resolve().parent, name=str(file))


def with_environment(raw: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings with those of `RECSYS__…` variables in their place; values are read as YAML.

    >>> with_environment({"seed": 1}, {"RECSYS__SERVING__WORKERS": "4"})
    {'seed': 1, 'serving': {'workers': 4}}

    Raises:
        UsageError: a value is not YAML, or lies below a setting that is no section.
    """
    settings = copy.deepcopy(dict(raw))
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT):
            continue
        *sections, key = variable.removeprefix(ENVIRONMENT).lower().split("__")
        place = settings
        for section in sections:
            if place.get(section) is None:
                place[section] = {}
            place = place[section]
            if not isinstance(place, dict):
                raise UsageError(
                    "the variable names a key of a setting that is no section",
                    where=variable,
                    found=section,
                    expected=f"{ENVIRONMENT}SECTION__KEY",
                )
        try:
            place[key] = read_yaml(environment[variable])
        except yaml.YAMLError:
            raise UsageError(
                "the variable's value is not valid YAML", where=variable, expected="a value"
            ) from None
    return settings


def parse_config(raw: dict[str, Any], folder: Path, name: str = "config") -> RecsysConfig:
    """Check a config already read from YAML; `folder` anchors its relative paths."""
    try:
        config = RecsysConfig.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, name) from None
    beside = _beside(folder, config.encoder)
    if beside:
        encoder = config.encoder.model_copy(update=beside)
        config = config.model_copy(update={"encoder": encoder})
    object.__setattr__(config, "_folder", folder)
    object.__setattr__(config, "_notes", tuple(_notes_on_retired(raw, name)))
    return config


def _beside(folder: Path, encoder: EncoderConfig) -> dict[str, str]:
    """The models that are directories beside the YAML, by their whole paths."""
    named = {"model": encoder.model, "teacher": encoder.teacher}
    return {
        key: str((folder / name).resolve())
        for key, name in named.items()
        if name is not None and name not in ("default", "auto") and (folder / name).is_dir()
    }


def _notes_on_retired(raw: Mapping[str, Any], name: str) -> Iterator[str]:
    """A sentence for each retired setting that is still named."""
    for (section, key), why in RETIRED.items():
        if key in (raw.get(section) or {}):
            yield f"{name}: the setting `{section}.{key}` has no effect, remove it ({why})"


def _explain(error: ValidationError, name: str) -> UsageError:
    """The first problem of a pydantic report, in our words; the others are counted. A key that nobody
    knows comes first: what is missing is often what it was meant to be."""
    problems = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    first = problems[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ONE_OF) or "(whole file)"
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        key, known = str(first["loc"][-1]), _known_keys(first["loc"][:-1])
        near = difflib.get_close_matches(key, known, n=1)
        return UsageError(
            f"unknown setting{others}",
            where=f"{name}: {field}",
            found=key,
            expected=f"did you mean `{near[0]}`?" if near else "one of " + ", ".join(known),
            fix="correct or remove the key",
        )
    if first["type"] == "missing":
        return UsageError(
            f"a required setting is missing{others}",
            where=f"{name}: {field}",
            expected=f"`{field}: …`",
            fix="add it; `recsys init DIR` writes a commented example",
        )
    return UsageError(
        f"a setting has a wrong value{others}",
        where=f"{name}: {field}",
        found=redacted(repr(first.get("input")))[:200],
        expected=first["msg"].removeprefix("Value error, "),
        fix="put it in quotes" if first["type"] == "string_type" else None,
    )


ONE_OF: Final = (str.__name__, SqlTable.__name__)
"""What pydantic calls the forms of a setting that has several."""


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Names that a section of the config accepts."""
    model: type[BaseModel] = RecsysConfig
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        elif part == SqlTable.__name__:
            model = SqlTable
        elif field is None and "types" in map(str, location):
            model = EventTypeConfig
    return sorted(model.model_fields)
