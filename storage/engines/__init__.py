"""Where the parts of a large piece of work run: processes of this machine, or a Spark cluster."""

from recsys.data_schemas.config import EngineConfig
from recsys.storage.engines.engine import Engine, PartWork
from recsys.storage.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine", "PartWork", "open_engine"]


def open_engine(settings: EngineConfig) -> Engine:
    """The engine that a config names, tried before any work.

    Raises:
        UsageError: it is not installed, or cannot be reached as it is configured.
    """
    if settings.kind == "local":
        return LocalEngine()
    from recsys.storage.engines.spark import SparkEngine

    return SparkEngine.open(settings.spark)
