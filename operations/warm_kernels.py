"""Compiling ahead of the first call: kernels lie on the disk afterwards, for every later process."""

from typing import TYPE_CHECKING, Final

from recsys.storage.progress import Reporter

if TYPE_CHECKING:
    import pandas as pd

    from recsys.data_schemas.config import RecsysConfig

MODELS: Final = ("ALS", "EASE", "ItemItem", "Transitions", "BM25", "Popular")
"""Single models whose fit and lists compile something."""
PEOPLE, ITEMS, EACH = 24, 30, 8


def warm_models(reporter: Reporter) -> None:
    """Fit each single model on a made-up shop and ask it once."""
    from recsys.operations.library.dataset import Dataset
    from recsys.operations.library.single_models import SingleModel

    data = Dataset(*_shop())
    models = {model.label: model for model in SingleModel.__subclasses__()}
    with reporter.task("kernels", len(MODELS)) as task:
        for name in MODELS:
            models[name]().fit(data).recommend(k=3)
            task.advance(note=name)


def warm_service(config: "RecsysConfig") -> bool:
    """Ask the champion as the service would be asked; whether there is one."""
    from recsys.data_schemas.errors import RecsysError
    from recsys.operations.open_release import load_release
    from recsys.query import RankingQuery, SimilarQuery

    try:
        loaded = load_release(config)
    except RecsysError:
        return False
    for user in ["", *loaded.state.user_ids()[:1]]:
        answer = loaded.answer(RankingQuery(user, loaded.moment, k=5, explain=2, diversity=0.5))
        loaded.answer(RankingQuery(user, loaded.moment, items=answer.item_ids))
    loaded.similar_to(SimilarQuery(answer.item_ids[:1], loaded.moment))
    return True


def _shop() -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Events and items of a made-up shop."""
    import pandas as pd

    pairs = [
        (user, (user * 7 + step * 3) % ITEMS) for user in range(PEOPLE) for step in range(EACH)
    ]
    start = pd.Timestamp("2026-01-01", tz="UTC")
    events = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user, _ in pairs],
            "item_id": [f"i{item}" for _, item in pairs],
            "event_type": "click",
            "timestamp": [start + pd.Timedelta(hours=n) for n in range(len(pairs))],
        }
    )
    items = pd.DataFrame(
        {
            "item_id": [f"i{item}" for item in range(ITEMS)],
            "title": [f"{('red', 'blue')[item % 2]} cup number {item}" for item in range(ITEMS)],
        }
    )
    return events, items
