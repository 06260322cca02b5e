"""Releases in MLflow: one joint version per night, and which of them serves."""

from recsys.storage.registry.registry import KEEP_VERSIONS, Registry
from recsys.storage.registry.version_tags import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Change,
    RegistryError,
    Version,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "KEEP_VERSIONS",
    "PREVIOUS",
    "Change",
    "Registry",
    "RegistryError",
    "Version",
]
