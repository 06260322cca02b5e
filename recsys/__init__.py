"""A content-aware recommender: the public names, each looked up in its room when it is first used.

`import recsys` loads nothing but this file and the earlier names of modules; `recsys.load_config` loads the config's module, and so on.
Types and "go to definition" come from `__init__.pyi`, which names the same names.
"""

from recsys.moved_modules import install as _install_moved

__version__ = "0.1.0"

_NAMES = {
    "ApiError": "serving.client",
    "AsyncClient": "serving.client",
    "Bundle": "storage.bundle",
    "Client": "serving.client",
    "Coverage": "operations.library.measures",
    "DataRefused": "data_schemas.errors",
    "Dataset": "operations.library.dataset",
    "EncoderManifest": "encoder.manifest",
    "EvaluationReport": "operations.library.evaluating",
    "ExitCode": "data_schemas.errors",
    "HitRate": "operations.library.measures",
    "LoadedRelease": "recommender",
    "MAP": "operations.library.measures",
    "Metric": "evaluation.metrics",
    "NDCG": "operations.library.measures",
    "NightResult": "training.night.night_result",
    "Novelty": "operations.library.measures",
    "OwnSource": "retrieval.own_source",
    "Precision": "operations.library.measures",
    "RankingQuery": "query",
    "RankingResult": "query",
    "Recall": "operations.library.measures",
    "Recommender": "operations.library.recommending",
    "RecsysConfig": "data_schemas.config",
    "RecsysError": "data_schemas.errors",
    "Registry": "storage.registry",
    "SourceParams": "retrieval.source_params",
    "TextEncoder": "encoder.runtime",
    "UsageError": "data_schemas.errors",
    "Workspace": "storage.workspace",
    "evaluate": "operations.library.evaluating",
    "load": "operations.library.recommending",
    "load_config": "data_schemas.config",
    "load_release": "operations.open_release",
    "open_bundle": "storage.bundle",
    "parse_config": "data_schemas.config",
    "param": "retrieval.source_params",
    "per_list": "operations.library.measures",
    "run_night": "training.nightly",
}
"""Public name → the module below `recsys` that defines it."""
_MODULES = ("models", "testing")
"""Public modules, which `import recsys.models` and `recsys.models` give alike."""

__all__ = ["__version__", *_MODULES, *_NAMES]


_install_moved(__name__)


def __getattr__(name: str) -> object:
    """A public name, imported now; an unknown one is answered with the nearest."""
    if name in _NAMES:
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
        return value
    if name in _MODULES:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    hint = ""
    if not name.startswith("_"):
        from difflib import get_close_matches

        near = get_close_matches(name, _NAMES, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else f"; it has {', '.join(_NAMES)}"
    # With a name and no object, Python adds no second guess to ours.
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`{hint}", name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_MODULES})
