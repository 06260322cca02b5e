"""`Recommender`: a night over a dataset, asked from Python; and `load`, which opens one again.

Fitting runs the stages of `training/nightly.py`; asking goes through the release that serving
asks. Nothing is computed here in a second way.
"""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig, load_config, parse_config
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.operations.library.dataset import Dataset, Ids
from recsys.operations.library.fitting import Params, not_fitted, reporter
from recsys.operations.library.lists_out import (
    SCORE,
    SIMILAR,
    as_ids,
    id_text,
    items_and_times,
    long_frame,
    require_k,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from recsys.query import RankingQuery
    from recsys.recommender import LoadedRelease

SAVED: Final = "recommender.json"
BUNDLE, STATE = "bundle", "state"
FORMAT: Final = 1
MODELS: Final = "models:/"
TRACKING: Final = "MLFLOW_TRACKING_URI"
SENTENCE: Final = "because"
NEAREST: Final = "similar"
SHARE: Final = "share_of_"


@dataclass(frozen=True)
class _Asked:
    """A release that can be asked, and how ids were given."""

    release: "LoadedRelease"
    bundle: Path
    state: Path | None
    """None where no snapshot of histories lies on the disk."""
    ids: Ids
    unread: frozenset[str] = frozenset()
    """Who is answered as somebody new, whatever the state holds of them."""

    def asker(self, user: str) -> str:
        """Whose history an answer is made from: nobody's for those who wished so."""
        return "" if user in self.unread else user

    @property
    def moment(self) -> int:
        """When lists are asked for, µs: once all that is known is counted, and after the model's data."""
        end = int(self.release.bundle.manifest["data_window"][1])
        return max(self.release.moment, self.release.grid.after(end - 1))


class Recommender(Params):
    """Everything that a night makes, from a dataset: sources, fine-tuned encoder, ranker.

    Parameters
    ----------
    budget_minutes
        Time of a fit, divided as a night divides it; a small data set takes less.
    sources
        Names of the sources to use, `"als"`, `"text"`, …, and sources of your own: a class, or its
        address `"package.module:ClassName"`. All that suit the data when None. `popular` and `text`
        are always there: people without a history need the one, items without events the other.
    workspace
        Folder in which stages are kept, so that a further fit does again only what changed. A
        temporary one, which goes with the recommender, when None.
    settings
        Further sections of a night's config, as in `{"encoder": {"fine_tune": False}}`.
    seed
        Of every draw; the same seed and data give the same lists.
    verbose
        Whether progress is shown.

    Examples
    --------
    >>> import recsys
    >>> recsys.Recommender(budget_minutes=2, seed=1)
    Recommender(budget_minutes=2, seed=1)

    After `model = recsys.Recommender(budget_minutes=5).fit(train)`:

    >>> recs = model.recommend(k=5)
    >>> list(recs.columns)
    ['user_id', 'item_id', 'score', 'rank']
    >>> model.similar_items(recs["item_id"][:1], k=2)["rank"].tolist()
    [1, 2]
    """

    def __init__(
        self,
        budget_minutes: float = 30.0,
        sources: Sequence[Any] | None = None,
        *,
        workspace: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        seed: int = 7,
        verbose: bool = True,
    ) -> None:
        self.budget_minutes = budget_minutes
        self.sources = sources
        self.workspace = workspace
        self.settings = settings
        self.seed = seed
        self.verbose = verbose
        self._asked: _Asked | None = None
        self._config: RecsysConfig | None = None
        self._removal: weakref.finalize[..., Any] | None = None
        """Removes a temporary workspace."""

    # -- fitting ----------------------------------------------------------------------------------

    def fit(self, train: Dataset) -> Self:
        """Learn from a dataset; returns itself.

        Parameters
        ----------
        train
            Interactions, items and users.

        Raises
        ------
        UsageError
            A setting is unknown or wrong.
        DataRefused
            The data cannot be learned from; the message says which rule, and how often.
        """
        from recsys.recommender import LoadedRelease
        from recsys.training.nightly import make_release

        settings = self._settings()
        self._config = train.config(self._folder(), settings)
        made = make_release(self._config, reporter=reporter(self.verbose))
        release = LoadedRelease.open(made.bundle, made.state, version="fitted here")
        while release.encode_new():
            pass
        self._asked = _Asked(release, made.bundle, made.state, train.ids)
        return self

    def _folder(self) -> Path:
        if self.workspace is not None:
            return Path(self.workspace)
        if self._removal is not None:
            self._removal()
        folder = tempfile.mkdtemp(prefix="recsys-recommender-")
        self._removal = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "budget_minutes": self.budget_minutes,
            "seed": self.seed,
            **dict(self.settings or {}),
        }
        if self.sources is not None:
            section = dict(settings.get("sources", {}))
            settings["sources"] = section | _sources_section(self.sources)
        return settings

    @property
    def _ready(self) -> _Asked:
        if self._asked is None:
            raise not_fitted(self)
        return self._asked

    # -- asking -----------------------------------------------------------------------------------

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        filter_viewed: bool = True,
        filters: Mapping[str, Any] | None = None,
        exclude: Iterable[Any] = (),
        diversity: float = 0.0,
        context: Mapping[str, Any] | None = None,
        processes: int = 1,
    ) -> "pd.DataFrame":
        """The best items for each user.

        Parameters
        ----------
        users
            Ids; everybody who was fitted on when None. Somebody unknown gets what new people get.
        k
            Items per user.
        filter_viewed
            Leave out what the user acted on before.
        filters
            Column → a value, a list of values, or bounds as in `{"price": {"lt": 30}}`; `lt`, `lte`,
            `gt`, `gte`, `ne`.
        exclude
            Items that nobody gets.
        diversity
            0 to 1: how much likeness to the items above is held against an item.
        context
            What a request would say of its situation.
        processes
            As many at a time. More than one needs a program that can be started again from its file.

        Returns
        -------
        pandas.DataFrame
            `user_id`, `item_id`, `score`, `rank` from 1, users in the order asked for. Scores compare
            within a user.

        Raises
        ------
        UsageError
            A filter names a column that items do not have.
        """
        from recsys.query import RankingQuery

        asked = self._ready
        names = self._everybody() if users is None else as_ids(users, "users")
        ask = RankingQuery(
            "",
            asked.moment,
            k=require_k(k),
            filters=dict(filters or {}),
            exclude=[str(item) for item in exclude],
            diversity=diversity,
            keep_seen=not filter_viewed,
            context=dict(context or {}),
        )
        return self._lists(names, ask, processes)

    def _lists(self, names: list[str], ask: "RankingQuery", processes: int) -> "pd.DataFrame":
        """The same question for each user, as a frame."""
        from recsys.operations.batch_lists import ReleaseFiles, lists_here, ranked

        asked = self._ready
        state = asked.state if asked.state is not None else Path()
        files = ReleaseFiles(asked.bundle, state, asked.release.version)
        with lists_here(processes if asked.state is not None else 1) as place:
            rows = (
                (user, items, scores)
                for table in ranked(place, files, asked.release, ask, names, unread=asked.unread)
                for user, items, scores in zip(*table.to_pydict().values(), strict=True)
            )
            return long_frame(rows, asked.ids)

    def learned_of(self, user: str) -> set[tuple[str, int]]:
        """(item, µs) of the interactions of a user that it was fitted on, or knows."""
        state, asked = self._ready.release.state, self._ready
        return items_and_times(state.history(user, asked.moment), state.catalogue)

    def _everybody(self) -> list[str]:
        names = [u for u in self._ready.release.state.user_ids() if u not in self._ready.unread]
        if not names:
            raise UsageError(
                "nobody's history is known here",
                where="recommend(users=None)",
                fix="name users, or give their interactions to recsys.load(…, data=…)",
            )
        return names

    def similar_items(self, items: Any, k: int = 10, by: str = "blend") -> "pd.DataFrame":
        """Items like each of some items, as the service answers it.

        Parameters
        ----------
        items
            Ids.
        k
            Neighbours of each.
        by
            `"blend"` of what people did and of texts, `"text"` or `"bought_together"` alone.

        Returns
        -------
        pandas.DataFrame
            `item_id`, `similar_item_id`, `score` (of texts alone their cosine, else 1 for what stands
            first in the list of every source), `rank`.

        Raises
        ------
        UsageError
            An item is unknown, or the way of asking.
        """
        from recsys.query import BLEND, BOUGHT_TOGETHER, BY_TEXT, SimilarQuery

        if by not in (ways := (BLEND, BY_TEXT, BOUGHT_TOGETHER)):
            raise UsageError("unknown likeness", where="by", found=by, expected=", ".join(ways))
        asked, rows = self._ready, []
        for item in as_ids(items, "items"):
            ask = SimilarQuery([item], asked.moment, k=require_k(k), by=by)
            found = asked.release.similar_to(ask)
            if found.unknown:
                raise self._unknown_item(item)
            rows.append((item, found.item_ids, found.scores))
        return long_frame(rows, asked.ids, (c.ITEM_ID, SIMILAR))

    def rank(self, pairs: Any) -> "pd.DataFrame":
        """The given items in order, for each user.

        Parameters
        ----------
        pairs
            A frame with `user_id` and `item_id`, or (user, item) pairs.

        Returns
        -------
        pandas.DataFrame
            `user_id`, `item_id`, `score`, `rank`; each user's items best first.

        Raises
        ------
        UsageError
            An item is unknown, or the frame lacks a column.
        """
        from recsys.query import RankingQuery

        asked, rows = self._ready, []
        for user, items in _items_by_user(pairs).items():
            answer = asked.release.answer(
                RankingQuery(asked.asker(user), asked.moment, items=list(dict.fromkeys(items)))
            )
            if answer.unknown:
                raise self._unknown_item(answer.unknown[0])
            rows.append((user, answer.item_ids, answer.scores))
        return long_frame(rows, asked.ids)

    def explain(self, user: Any, items: Any) -> "pd.DataFrame":
        """Why items stand where they do in a user's list.

        Parameters
        ----------
        user
            An id.
        items
            Ids; those of a list of `recommend`, say.

        Returns
        -------
        pandas.DataFrame
            A row per item, best first: `item_id`, `score`, a sentence in `because`, the items of the
            history nearest in text in `similar`, and the share of each family of features (TreeSHAP),
            `share_of_text` and so on; the absolute shares of a row add up to 1.
        """
        import pandas as pd

        from recsys.query import RankingQuery

        asked, named = self._ready, as_ids(items, "items")
        answer = asked.release.answer(
            RankingQuery(
                asked.asker(id_text(user, "explain(user)")),
                asked.moment,
                items=named,
                explain=len(named),
            )
        )
        if answer.unknown:
            raise self._unknown_item(answer.unknown[0])
        rows = [
            {SCORE: score, SENTENCE: reason["sentence"]["en"]}
            | {NEAREST: [asked.ids.of_items([n[c.ITEM_ID]])[0] for n in reason["similar"]]}
            | {f"{SHARE}{family}": share for family, share in reason["families"].items()}
            for score, reason in zip(answer.scores, answer.reasons or [], strict=False)
        ]
        frame = pd.DataFrame(rows)
        frame.insert(0, c.ITEM_ID, asked.ids.of_items(answer.item_ids[: len(rows)]))
        return frame

    def encode(self, texts: str | Sequence[str]) -> "npt.NDArray[Any]":
        """Vectors of texts by the fine-tuned encoder.

        Parameters
        ----------
        texts
            n texts.

        Returns
        -------
        numpy.ndarray
            float32 of shape (n, d), each of length 1, so that a dot product is a cosine.
        """
        from recsys.encoder.runtime import TextEncoder
        from recsys.storage.bundle import open_bundle

        folder = open_bundle(self._ready.bundle, verify=False).encoder
        if folder is None:
            raise RecsysError("this release has no encoder", where=str(self._ready.bundle))
        named = [texts] if isinstance(texts, str) else list(texts)
        return TextEncoder.open(folder).encode(named)

    def _unknown_item(self, item: str) -> UsageError:
        from difflib import get_close_matches

        known = self._ready.release.state.catalogue
        near = get_close_matches(item, known.item_ids.to_pylist()[:20_000], n=1)
        return UsageError(
            "there is no such item",
            found=item,
            expected=f"did you mean `{near[0]}`?" if near else f"an id such as {known.id_of(0)!r}",
        )

    # -- keeping ----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write everything needed to ask again into a folder, which `recsys.load` opens.

        The folder holds people's histories. What is registered does not.

        Parameters
        ----------
        path
            Folder to make; one that holds a saved recommender is replaced.
        """
        from recsys.storage.files import atomic_folder, write_json

        asked, folder = self._ready, Path(path)
        if folder.exists() and any(folder.iterdir()) and not (folder / SAVED).is_file():
            raise UsageError(
                "the folder holds something else",
                where=str(folder),
                expected="a new folder, or one that a recommender was saved in",
            )
        with atomic_folder(folder, "a saved recommender") as aside:
            shutil.copytree(asked.bundle, aside / BUNDLE)
            if asked.state is not None:
                shutil.copytree(asked.state, aside / STATE)
            whole = {"users": asked.ids.users, "items": asked.ids.items}
            params = {
                n: v for n, v in self.get_params().items() if n not in ("workspace", "sources")
            }
            params = {n: v for n, v in params.items() if _is_plain(v)}
            write_json(aside / SAVED, {"format": FORMAT, "whole_numbers": whole, "params": params})
        return folder

    def register(
        self,
        name: str,
        *,
        config: str | Path | RecsysConfig | None = None,
        tracking_uri: str | None = None,
        promote: bool = False,
        description: str | None = None,
    ) -> int:
        """Register as a version of a model in MLflow, as a night would; nobody's history goes there.

        It is tried beside the champion and takes its place only where there is none, or with
        `promote`: nothing has compared the two.

        Parameters
        ----------
        name
            `"models:/shop"`.
        config
            `recsys.yaml` of the workspace whose registry it is, or the config itself.
        tracking_uri
            Of an MLflow registry; the variable MLFLOW_TRACKING_URI when None and no config is given.
        promote
            Whether it takes the champion's place.
        description
            A sentence for the version's page.

        Returns
        -------
        int
            The version.
        """
        from recsys.storage.registry import Registry

        asked = self._ready
        registry = Registry(registry_config(name, config, tracking_uri, self._own_folder()))
        version = registry.register(
            asked.bundle,
            tags={"reasons": "registered from Python, not compared with the champion"},
            run_name=f"python {datetime.now(UTC):%Y-%m-%d}",
            description=description or "Registered from Python; not compared with the champion.",
        )
        if promote or registry.champion() is None:
            registry.promote(version, "registered from Python")
        return version

    def _own_folder(self) -> Path | None:
        return None if self.workspace is None else Path(self.workspace)

    @classmethod
    def _of(cls, asked: _Asked, params: Mapping[str, Any] | None = None) -> Self:
        model = cls(**dict(params or {}))
        model._asked = asked
        return model


def load(
    what: str | Path,
    *,
    config: str | Path | RecsysConfig | None = None,
    tracking_uri: str | None = None,
    data: Dataset | None = None,
) -> Recommender:
    """Open what `Recommender.save` wrote, or a registered version.

    Parameters
    ----------
    what
        A folder, or `"models:/shop@champion"`, `"models:/shop/3"`.
    config
        `recsys.yaml` of the workspace whose registry it is; the histories are then those that it
        knows.
    tracking_uri
        Of an MLflow registry; the variable MLFLOW_TRACKING_URI when None and no config is given.
    data
        Histories to ask over, where only the model was registered. Nothing is learned from them.

    Raises
    ------
    UsageError
        There is no such folder, version or alias.
    """
    text = str(what)
    if text.startswith(MODELS):
        asked = _registered(text, config, tracking_uri)
        params: dict[str, Any] = {}
    else:
        asked, params = _saved(Path(what))
    if data is not None:
        asked = _over(asked, data)
    return Recommender._of(asked, params)


def _saved(folder: Path) -> tuple[_Asked, dict[str, Any]]:
    from recsys.recommender import LoadedRelease

    try:
        facts = json.loads((folder / SAVED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(
            "no recommender was saved here",
            where=str(folder),
            expected=f"a folder with {SAVED}, or {MODELS}NAME@ALIAS",
        ) from None
    if facts.get("format", 0) > FORMAT:
        raise UsageError(
            "the recommender was saved by a newer recsys",
            where=str(folder),
            found=f"format {facts['format']}",
            expected=f"format up to {FORMAT}",
            fix="upgrade recsys here",
        )
    ids = Ids(facts["whole_numbers"]["users"], facts["whole_numbers"]["items"])
    bundle, state = folder / BUNDLE, folder / STATE
    if not state.is_dir():
        return _Asked(_over_nobody(bundle), bundle, None, ids), facts["params"]
    release = LoadedRelease.open(bundle, state, version=folder.name)
    return _Asked(release, bundle, state, ids), facts["params"]


def _registered(
    address: str, config: str | Path | RecsysConfig | None, tracking_uri: str | None
) -> _Asked:
    from recsys.operations.open_release import find_release
    from recsys.storage.opt_outs import unread_people
    from recsys.storage.registry import Registry

    name = address.removeprefix(MODELS).partition("@")[0].partition("/")[0]
    settled = registry_config(name, config, tracking_uri, None)
    registry = Registry(settled)
    bundle = registry.local_path(registry.resolve(address))
    try:
        state: Path | None = find_release(settled, address).state if config is not None else None
    except RecsysError:  # the workspace has registered a model and run no night
        state = None
    if state is None:
        return _Asked(_over_nobody(bundle), bundle, None, Ids())
    from recsys.recommender import LoadedRelease

    release = LoadedRelease.open(bundle, state, version=address)
    while release.encode_new():
        pass
    return _Asked(release, bundle, state, Ids(), unread_people(settled, release.log_mark))


def _over_nobody(bundle: Path) -> "LoadedRelease":
    """A bundle over its own catalogue, with no history: what is registered knows no person."""
    from recsys.recommender import release_over_nobody

    return release_over_nobody(bundle)


def _over(asked: _Asked, data: Dataset) -> _Asked:
    """The same models over the histories of a dataset."""
    from recsys.data_schemas.log_record import LogRecord

    release = _over_nobody(asked.bundle)
    frame = data._events.sort_by(c.TIMESTAMP)
    known = set(release.state.catalogue.item_ids.to_pylist())
    records: list[LogRecord] = []
    for row in frame.to_pylist():
        if row[c.ITEM_ID] not in known or row[c.TIMESTAMP] is None or row[c.USER_ID] is None:
            continue
        at = int(row[c.TIMESTAMP].timestamp() * 1e6)
        payload = {name: row.get(name) for name in (c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.VALUE)}
        records.append(LogRecord(len(records), "event", payload | {c.TIMESTAMP: at}, at))
    release.apply(records)
    return _Asked(release, asked.bundle, None, data.ids)


def registry_config(
    name: str,
    config: str | Path | RecsysConfig | None,
    tracking_uri: str | None,
    folder: Path | None,
) -> RecsysConfig:
    """The config that names a registry and a model.

    Raises:
        UsageError: nothing says which registry is meant.
    """
    model = name.removeprefix(MODELS)
    if config is not None:
        given = config if isinstance(config, RecsysConfig) else load_config(config)
        named = given.model_copy(update={"name": model})
        object.__setattr__(named, "_folder", given._folder)
        return named
    uri = tracking_uri or os.environ.get(TRACKING)
    if uri is None and folder is None:
        raise UsageError(
            "which registry?",
            where=f"{MODELS}{model}",
            expected="the config of a workspace, or the address of MLflow",
            fix="config='shop/recsys.yaml', or tracking_uri='http://mlflow:5000'",
        )
    place = folder or Path.home() / ".cache" / "recsys"
    raw: dict[str, Any] = {"data": {"items": "-", "events": "-"}, "name": model}
    if uri is not None:
        raw["tracking"] = {"uri": uri}
    return parse_config(raw, place.resolve(), f"{MODELS}{model}")


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _items_by_user(pairs: Any) -> dict[str, list[str]]:
    """user → items, users and items in the order given."""
    if hasattr(pairs, "columns"):
        missing = [n for n in (c.USER_ID, c.ITEM_ID) if n not in list(pairs.columns)]
        if missing:
            raise UsageError(
                "a column is missing from the pairs to rank",
                where="rank(pairs)",
                found=", ".join(map(str, pairs.columns)),
                expected=f"{c.USER_ID} and {c.ITEM_ID}",
            )
        pairs = zip(list(pairs[c.USER_ID]), list(pairs[c.ITEM_ID]), strict=True)
    found: dict[str, list[str]] = {}
    for user, item in pairs:
        mine = found.setdefault(id_text(user, "rank(pairs)"), [])
        mine.append(id_text(item, "rank(pairs)"))
    return found


def _sources_section(sources: Sequence[Any]) -> dict[str, Any]:
    """`sources:` of a config from names, classes and addresses of classes."""
    from recsys.retrieval.source_kinds import TEXT, source_class

    use, own, dials = [], [], {}
    for source in [sources] if isinstance(sources, str) else sources:
        if isinstance(source, str) and ":" not in source:
            if source != TEXT:
                source_class(source)  # says which there are
            use.append(source)
        elif isinstance(source, str):
            own.append(source)
        else:
            kind = source if isinstance(source, type) else type(source)
            own.append(f"{kind.__module__}:{kind.__qualname__}")
            if not isinstance(source, type) and getattr(source, "params", None):
                dials[str(source.name)] = dict(source.params)
    section: dict[str, Any] = {"use": use}
    if own:
        section["own"] = own
    return section | ({"dials": dials} if dials else {})
