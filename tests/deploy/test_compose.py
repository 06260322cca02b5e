"""Everything on one machine: the files fit each other, and their processes work together."""

import fnmatch
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from recsys.data_schemas.config import load_config
from recsys.operations.cli.main import build_parser
from recsys.serving.routes import OPERATIONS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
EVERY_NIGHT = DEPLOY / "compose" / "every-night.sh"


def test_what_is_mounted_built_and_waited_for_is_there():
    volumes = set(COMPOSE["volumes"])
    for name, service in SERVICES.items():
        assert {"build", "image"} & set(service), name
        if "build" in service:
            assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
            stages = re.findall(r"^FROM \S+ AS (\S+)", (DEPLOY / "Containerfile").read_text(), re.M)
            assert service["build"]["target"] in stages
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file(), source
            elif not source.startswith("../shop"):
                assert source in volumes, source
        assert set(service.get("depends_on", ())) <= SERVICES.keys()
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to everybody"
    used = {m.split(":")[0] for s in SERVICES.values() for m in s.get("volumes", ())}
    assert volumes <= used


@pytest.mark.parametrize("name", ["service", "night", "mlflow"])
def test_our_containers_are_closed(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["environment"]["PGPASSWORD"].startswith("${POSTGRES_PASSWORD:?")


def test_commands_and_settings_are_ours(monkeypatch):
    serve = SERVICES["service"]["command"]
    night = SERVICES["night"]["command"]
    assert callable(build_parser().parse_args(serve[1:]).run)
    assert callable(build_parser().parse_args(night[night.index("recsys") + 1 :]).run)
    for key, value in SERVICES["service"]["environment"].items():
        if key.startswith("RECSYS__"):
            monkeypatch.setenv(key, value)
    config = load_config(DEPLOY / "compose" / "recsys.yaml")
    assert config.serving.log == "postgresql://recsys@postgres/recsys"
    assert config.tracking.uri == "http://mlflow:5000"
    assert config.serving.keys_file, "a service beyond loopback has keys"


def names_in(expression):
    return set(re.findall(r"\brecsys_\w+", expression))


def rules():
    groups = yaml.safe_load((DEPLOY / "compose" / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def panels():
    board = json.loads((DEPLOY / "compose" / "grafana" / "recsys.json").read_text())
    return {p["title"]: [t["expr"] for t in p["targets"]] for p in board["panels"]}


def test_every_metric_of_alerts_and_dashboard_is_one_that_we_give(metric_names):
    told = {name: names_in(expr) for name, expr in rules().items()}
    shown = {name: set().union(*map(names_in, exprs)) for name, exprs in panels().items()}
    for name, metrics in (told | shown).items():
        assert metrics, f"{name} watches nothing"
        assert metrics <= metric_names, f"{name}: {metrics - metric_names}"
    assert "recsys_gone_total" not in metric_names


def test_routes_in_expressions_are_routes_of_the_service():
    paths = {operation.path for operation in OPERATIONS}
    for expression in [*rules().values(), *(e for all_of in panels().values() for e in all_of)]:
        for pattern in re.findall(r'route=~"([^"]+)"', expression):
            assert [path for path in paths if re.fullmatch(pattern, path)], pattern


def test_prometheus_and_grafana_find_their_files_and_each_other():
    scraped = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    targets = [
        t for j in scraped["scrape_configs"] for s in j["static_configs"] for t in s["targets"]
    ]
    assert {target.split(":")[0] for target in targets} <= SERVICES.keys()
    mounted = {m.split(":")[1] for m in SERVICES["prometheus"]["volumes"]}
    assert set(scraped["rule_files"]) <= mounted
    source = yaml.safe_load((DEPLOY / "compose/grafana/datasources.yaml").read_text())
    board = json.loads((DEPLOY / "compose/grafana/recsys.json").read_text())
    assert {p["datasource"]["uid"] for p in board["panels"]} == {source["datasources"][0]["uid"]}
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


# -- the images ---------------------------------------------------------------------------------


def test_what_is_no_source_stays_out_of_the_build():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    def travels(path):
        kept = False
        for pattern in patterns:
            name = pattern.removeprefix("!").removeprefix("**/")
            parts = path.split("/")
            heads = ["/".join(parts[: i + 1]) for i in range(len(parts))]
            if any(fnmatch.fnmatch(head, name) for head in heads) or (
                "**/" in pattern and any(fnmatch.fnmatch(part, name) for part in parts)
            ):
                kept = pattern.startswith("!")
        return kept

    for path in (
        ".venv/bin/python",
        "demo/work/x",
        "tests/conftest.py",
        ".git/HEAD",
        "shop/keys.yaml",
    ):
        assert not travels(path), path
    rooms = [file.parent.name for file in ROOT.glob("*/__init__.py")]
    needed = ["pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE"]
    for path in (*needed, "deploy/serving.txt", *(f"{room}/__init__.py" for room in rooms)):
        assert travels(path), path
    assert not travels("recsys/__pycache__/explain.cpython-311.pyc")


# -- the timer ----------------------------------------------------------------------------------


def timer(*words, **more):
    return subprocess.run(
        ["bash", str(EVERY_NIGHT), *words],
        env=os.environ | {"ONCE": "1", "AT_ONCE": "1"} | more,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("code", "told"), [(0, False), (4, False), (1, True), (3, True)])
def test_the_timer_gives_the_exit_code_and_tells_of_failures(code, told):
    done = timer("02:30", "bash", "-c", f"exit {code}")
    assert done.returncode == code
    assert ("ended with exit code" in done.stderr) is told


def test_the_timer_waits_for_its_hour_and_stops_when_asked():
    assert timer("2:30", "true").returncode == 2
    assert timer("02:30").returncode == 2
    with subprocess.Popen(
        ["bash", str(EVERY_NIGHT), "02:30", "true"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        said = running.stderr.readline()
        running.terminate()
        assert running.wait(timeout=10) == 143
    assert re.fullmatch(r"next run at \d{4}-\d\d-\d\dT02:30Z\n", said)
