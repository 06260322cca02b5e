"""Single models under their usual names, `recsys.models.ALS().fit(train).recommend(k=10)`, and the adapters
through which models of RecTools and LensKit become sources."""

from recsys.operations.library.adapted_models import LensKitSource, RecToolsSource
from recsys.operations.library.single_models import AlsModel as ALS
from recsys.operations.library.single_models import Bm25Model as BM25
from recsys.operations.library.single_models import EaseModel as EASE
from recsys.operations.library.single_models import ItemItemModel as ItemItem
from recsys.operations.library.single_models import PopularModel as Popular
from recsys.operations.library.single_models import SequenceModelAlone as Sequence
from recsys.operations.library.single_models import TextModel as Text
from recsys.operations.library.single_models import TransitionsModel as Transitions
from recsys.operations.library.single_models import VectorsModel as Vectors

__all__ = [
    "ALS",
    "BM25",
    "EASE",
    "ItemItem",
    "LensKitSource",
    "Popular",
    "RecToolsSource",
    "Sequence",
    "Text",
    "Transitions",
    "Vectors",
]
