"""A small world with two tastes, and every source of it fitted once."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
import warnings
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from recsys.data_schemas.columns import (
    AVAILABLE,
    CATEGORY,
    CREATED_AT,
    DESCRIPTION,
    ITEM_ID,
    TAGS,
    TITLE,
    VECTOR,
)
from recsys.data_schemas.config import parse_config
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import (
    DAY,
    EMPTY_HISTORY,
    History,
    Interactions,
)
from recsys.features.protocols import Recalled
from recsys.retrieval.fitted_source import SourceInputs
from recsys.retrieval.source_kinds import shipped
from recsys.training.sources.fit_source import fit_one

# How long a draw takes is the machine's affair: a busy one is no fault of a strategy.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

N_ITEMS = 40
SMALL = {"sequence": {"width": 16, "negatives": 32, "learning_rate": 0.01}}
"""Params that make a fit quick."""
UNMET = (38, 39)
"""Items without any event."""


def make_history(items, weights=None, start=0):
    n = len(items)
    weight = np.full(n, 5.0, np.float32) if weights is None else np.array(weights, np.float32)
    return History(
        np.array(items, np.int32),
        np.zeros(n, np.int16),
        (start + np.arange(n)) * DAY,
        weight,
        np.sign(weight).astype(np.int8),
    )


def make_interactions(users, items, weights=None, n_items=N_ITEMS):
    n = len(users)
    weight = np.full(n, 5.0, np.float32) if weights is None else np.array(weights, np.float32)
    return Interactions(
        np.array(users, np.int32),
        np.array(items, np.int32),
        np.zeros(n, np.int16),
        np.arange(n, dtype=np.int64) * DAY,
        np.full(n, np.nan, np.float32),
        weight,
        np.sign(weight).astype(np.int8),
        np.arange(n, dtype=np.int64),
        np.array([f"u{u}" for u in range(max(users, default=-1) + 1)], object),
        ("purchase",),
        n_items,
    )


def two_tastes(seed=3, users=120, length=8):
    """Even users buy even items, odd users odd ones, in a loosely ascending order."""
    draw = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        own = draw.choice(np.arange(user % 2, 38, 2), length, replace=False)
        rows += [(step, user, item) for step, item in enumerate(np.sort(own))]
    rows.sort()
    return make_interactions([u for _, u, _ in rows], [i for _, _, i in rows])


def images_of(n_items):
    """Own vectors: those of even items near each other, as those of odd ones."""
    draw = np.random.default_rng(11).normal(0.0, 0.3, (n_items, 3)) + 1.0
    draw[1::2, 0] *= -1.0
    return draw.astype(np.float32).tolist()


def world_inputs(n_items=N_ITEMS):
    titles = [
        f"{('Acme', 'Globex', 'Initech', 'Hooli')[i % 4]} widget number {i}" for i in range(n_items)
    ]
    catalogue = Catalogue.from_table(
        pa.table(
            {
                ITEM_ID: [f"i{i}" for i in range(n_items)],
                TITLE: titles,
                DESCRIPTION: pa.nulls(n_items, pa.string()),
                TAGS: [[f"shelf{i % 4}"] for i in range(n_items)],
                CATEGORY: [f"hall{i % 2}" for i in range(n_items)],
                CREATED_AT: pa.nulls(n_items, pa.timestamp("us", "UTC")),
                AVAILABLE: [True] * n_items,
                VECTOR: images_of(n_items),
            }
        )
    )
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(n_items, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return SourceInputs(catalogue, titles, vectors)


@pytest.fixture(scope="session")
def world():
    return two_tastes(), world_inputs()


@pytest.fixture(scope="session")
def fitted(world):
    interactions, inputs = world
    return {
        name: fit_one(name, interactions, inputs, SMALL.get(name, {}), seed=1, workers=1)
        for name in shipped()
    }


@pytest.fixture(scope="session")
def small():
    return SMALL


@pytest.fixture(scope="session")
def history():
    return make_history


@pytest.fixture(scope="session")
def interactions_of():
    return make_interactions


@pytest.fixture(scope="session")
def inputs_of():
    return world_inputs


class Fixed:
    """Proposes given items with given scores, whoever asks."""

    columns = ("score",)
    fit_until = 0

    def __init__(self, name, items, scores):
        self.name = name
        self.content = name in ("text", "bm25", "attributes")
        self.items = np.array(items, np.int32)
        self.scores = np.array(scores, np.float32)

    def score(self, history, items, now):
        known = dict(zip(self.items.tolist(), self.scores.tolist(), strict=True))
        return np.array([[known.get(int(i), np.nan)] for i in items], np.float32).reshape(-1, 1)

    def recall(self, history, limit, now, blocked):
        keep = blocked[self.items] == 0
        return Recalled(self.items[keep][:limit], self.scores[keep][:limit])

    def save(self, folder):
        raise NotImplementedError

    @classmethod
    def load(cls, folder):
        raise NotImplementedError


@pytest.fixture
def fixed():
    return Fixed


@pytest.fixture
def nobody():
    return EMPTY_HISTORY


WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "red",
    "blue",
    "green",
    "heavy",
    "light",
    "small",
    "large",
    "game",
    "pen",
    "paper",
    "glue",
    "tape",
    "robot",
    "car",
    "train",
    "boat",
    "star",
    "moon",
    "sun",
    "sea",
    "hill",
    "wood",
    "iron",
    "gold",
    "with",
    "for",
    "and",
    "the",
    "of",
    "a",
    "widget",
    "number",
    "acme",
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a random BERT of three layers and 16 units, and a tokenizer of some words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-model")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: i for i, w in enumerate([*special, *".,:;-", *map(str, range(40)), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def server_programs():
    """The folder of PostgreSQL's programs, or None."""
    found = shutil.which("pg_ctl")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


class Server:
    """A PostgreSQL server on a free port; root hands it to the user `postgres`."""

    def __init__(self, folder):
        self.data = folder / "data"
        self.folder, self.programs = folder, server_programs()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.uri = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "--no-sync")

    def _run(self, program, *arguments):
        command = [str(self.programs / program), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        log = str(self.folder / "server.log")
        self._run(
            "pg_ctl", "-D", str(self.data), "-o", options, "-l", log, "-w", "-t", "180", "start"
        )

    def stop(self):
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def empty(self):
        """URI of a database of its own with nothing in it."""
        import psycopg

        name = f"empty_{uuid.uuid4().hex}"
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{self.uri.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def postgres():
    """A running server in a folder of its own; a test that stops it starts it again."""
    if server_programs() is None:
        pytest.skip("no PostgreSQL server programs are installed")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    pytest.importorskip("psycopg", reason="the [postgres] extra is not installed")
    # Not below pytest's folders, which are closed to other users than root.
    with tempfile.TemporaryDirectory(prefix="recsys-postgres-") as folder:
        server = Server(Path(folder))
        server.start()
        yield server
        server.stop()


class SavedArray:
    """A source or ranker that saves one array."""

    def __init__(self, value, fit_until=1_000_000):
        self.value, self.fit_until = value, fit_until

    def save(self, folder):
        np.save(folder / "array.npy", np.full(5, self.value, np.float32))


@pytest.fixture
def make_bundle(tmp_path):
    from recsys.storage.bundle import write_bundle

    def make(value=1.0, out=None, **changes):
        parts = {
            "encoder": None,
            "items": {"ids": ["a", "bé", "c"], "vectors": np.eye(3, dtype=np.float32)},
            "sources": {"als": SavedArray(value), "popular": SavedArray(2.0, 500_000)},
            "ranker": SavedArray(3.0),
            "features_json": {"families": ["text"]},
            "facts": {"config": {"seed": 7}, "data_window": [1, 2], "night": "2026-01-01"},
        }
        return write_bundle(out or tmp_path / f"bundle-{value}", **(parts | changes))

    return make


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables with nothing in them: making them takes seconds."""
    from recsys.storage.registry import Registry

    folder = tmp_path_factory.mktemp("mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = parse_config({"data": {"items": "items", "events": "events"}}, folder)
        registry = Registry(config)
        registry._client.search_registered_models()
    return registry._store.path


@pytest.fixture
def config(tmp_path, empty_database):
    (tmp_path / "work" / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_database, tmp_path / "work" / "mlflow" / "mlflow.db")
    return parse_config({"data": {"items": "items", "events": "events"}}, tmp_path)


@pytest.fixture
def registry(config):
    """The registry of a workspace with no version in it."""
    from recsys.storage.registry import Registry

    return Registry(config)


@pytest.fixture
def s3(monkeypatch):
    """Address of a bucket of its own on a local S3 service, with what programs need to reach it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ENDPOINT_URL": url,
        "MLFLOW_S3_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    from recsys.storage.file_systems import file_system_of

    file_system_of.cache_clear()
    import boto3

    bucket = f"shop-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    file_system_of.cache_clear()
    server.stop()


class WatchedEngine:
    """An engine of this process that says which parts it was given, and may be ended at one."""

    shares_disk = True

    def __init__(self, dies_at=None):
        self.given, self.dies_at = [], dies_at

    def each_part(self, work, parts):
        for part in parts:
            if part == self.dies_at:
                raise KeyboardInterrupt
            self.given.append(part)
            yield work(part)


@pytest.fixture(scope="session")
def watched_engine():
    """The class of such engines."""
    return WatchedEngine


def kill_one_of_the_processes(scratch):
    """SIGKILL, as when memory has run out, once the first parts are there."""
    while len(list(scratch.rglob("made-*.parquet"))) < 3:
        time.sleep(0.005)
    children = psutil.Process().children()
    next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()


@pytest.fixture(scope="session")
def process_killed_amid():
    """Scratch folder → the thread that waits for its first parts and kills a process then."""

    def started(scratch):
        watcher = threading.Thread(target=kill_one_of_the_processes, args=[scratch])
        watcher.start()
        return watcher

    return started


@pytest.fixture
def java():
    pytest.importorskip("pyspark", reason="the [spark] extra is not installed")
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        pytest.skip("there is no JDK on this machine")


@pytest.fixture
def session_ends(java):
    yield
    from pyspark.sql import SparkSession

    if (session := SparkSession.getActiveSession()) is not None:
        session.stop()
