from recsys.data_schemas.config import RecsysConfig as RecsysConfig
from recsys.data_schemas.config import load_config as load_config
from recsys.data_schemas.config import parse_config as parse_config
from recsys.data_schemas.errors import DataRefused as DataRefused
from recsys.data_schemas.errors import ExitCode as ExitCode
from recsys.data_schemas.errors import RecsysError as RecsysError
from recsys.data_schemas.errors import UsageError as UsageError
from recsys.encoder.manifest import EncoderManifest as EncoderManifest
from recsys.encoder.runtime import TextEncoder as TextEncoder
from recsys.operations.open_release import load_release as load_release
from recsys.query import RankingQuery as RankingQuery
from recsys.query import RankingResult as RankingResult
from recsys.recommender import LoadedRelease as LoadedRelease
from recsys.serving.client import ApiError as ApiError
from recsys.serving.client import AsyncClient as AsyncClient
from recsys.serving.client import Client as Client
from recsys.storage.bundle import Bundle as Bundle
from recsys.storage.bundle import open_bundle as open_bundle
from recsys.storage.registry import Registry as Registry
from recsys.storage.workspace import Workspace as Workspace
from recsys.training.night.night_result import NightResult as NightResult
from recsys.training.nightly import run_night as run_night

__version__: str
