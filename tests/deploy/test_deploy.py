"""The scheduler files, by their own validators where this machine has them."""

import ast
import configparser
import copy
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.shards import SHARD_HEADER
from recsys.operations.cli.main import build_parser

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES, KUSTOMIZATION = DEPLOY / "kubernetes", "kustomization.yaml"
OVERLAYS = sorted(p.name for p in (KUBERNETES / "overlays").iterdir())
UNITS = sorted(p.name for p in (DEPLOY / "systemd").iterdir())


def command_after(text):
    """The words of the first recsys call in a text."""
    words = text.split("bin/recsys ", 1)[1].split()
    return words[: next((i for i, w in enumerate(words) if w.startswith((">>", "||"))), len(words))]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_units(tmp_path):
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text()
        # The command and its user are not on this machine; everything else is checked as it is.
        text = text.replace("/srv/recsys/.venv/bin/recsys", "/bin/true")
        text = text.replace("WorkingDirectory=/srv/recsys", "WorkingDirectory=/")
        (tmp_path / name).write_text(text.replace("User=recsys", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
    )
    problems = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert problems == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_timer_names_a_moment():
    timer = (DEPLOY / "systemd" / "recsys-nightly.timer").read_text()
    when = next(line for line in timer.splitlines() if line.startswith("OnCalendar="))
    subprocess.run(
        ["systemd-analyze", "calendar", when.split("=", 1)[1]],
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("name", [n for n in UNITS if n.endswith(".service")])
def test_the_units_call_commands_that_exist(name):
    text = (DEPLOY / "systemd" / name).read_text()
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert callable(build_parser().parse_args(command_after(line)).run)


@pytest.mark.parametrize("name", ["recsys", "recsys-snapshot"])
def test_the_cron_line_is_five_fields_a_user_and_a_command(name):
    lines = (DEPLOY / "cron" / name).read_text().splitlines()
    entry = next(line for line in lines if line[:1].isdigit())
    minute, hour, *rest, user, command = entry.split(maxsplit=6)
    assert 0 <= int(minute) < 60
    assert hour == "*" or 0 <= int(hour) < 24
    assert rest == ["*", "*", "*"]
    assert user == "recsys"
    assert "%" not in command, "cron reads % as a line break"
    subprocess.run(["bash", "-n", "-c", command], check=True)
    assert callable(build_parser().parse_args(command_after(command)).run)


def test_the_router_knows_every_shard_by_the_header_of_the_callers():
    text = (DEPLOY / "nginx" / "shards.conf").read_text()
    variable = "$http_" + SHARD_HEADER.replace("-", "_")
    block = re.search(rf"map {re.escape(variable)} \$recsys_shard {{(.*?)}}", text, re.DOTALL)
    assert block is not None
    to = dict(re.findall(r'"(\d+)"\s+(\w+);', block[1]))
    assert list(to) == [str(n) for n in range(len(to))]
    first = [re.search(rf"upstream {name} {{ server ([\d.:]+);", text)[1] for name in to.values()]
    every = re.search(r"upstream recsys_any {(.*?)}", text, re.DOTALL)[1]
    assert re.findall(r"server ([\d.:]+);", every) == first
    assert len(set(first)) == len(to)
    assert f"mod {len(to)}" in text


def test_the_kubernetes_job():
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "nightly.yaml").read_text()))
    config, job, _ = found
    assert yaml.safe_load(config["data"]["recsys.yaml"])["data"]
    spec = job["spec"]["jobTemplate"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert callable(build_parser().parse_args(container["command"][1:]).run)
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_airflow_dag_is_python_that_calls_a_command():
    tree = ast.parse((DEPLOY / "airflow" / "recsys_nightly.py").read_text())
    texts = [
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]
    command = next(text for text in texts if "bin/recsys " in text)
    assert callable(build_parser().parse_args(command_after(command)).run)


# --- hardening ------------------------------------------------------------------------------------


def settings_of(unit):
    """{setting: value} of a unit's [Service]; a setting given twice fails."""
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str
    text = (DEPLOY / "systemd" / unit).read_text()
    parser.read_string(text)
    return dict(parser["Service"])


@pytest.mark.parametrize("name", [n for n in UNITS if n.endswith(".service")])
def test_units_are_bounded_and_closed(name):
    service = settings_of(name)
    assert service["MemoryMax"].endswith("G")
    assert int(service["LimitNOFILE"]) >= 4096
    assert int(service["UMask"], 8) & 0o027 == 0o027
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["SystemCallFilter"] == "@system-service"
    yes = [
        "ProtectHome",
        "PrivateTmp",
        "NoNewPrivileges",
        "ProtectKernelTunables",
        "RestrictNamespaces",
    ]
    assert {key: service[key] for key in yes} == dict.fromkeys(yes, "true")
    writable = service["ReadWritePaths"].removeprefix("-").split()
    assert writable == ["/srv/recsys/work"], "config, keys and program are not writable"
    cache = service["Environment"].split("NUMBA_CACHE_DIR=")[1].split()[0]
    assert cache.startswith(f"/var/cache/{service['CacheDirectory']}/"), (
        "code lies in a folder of its own"
    )
    # Both would end compiled kernels: they are written, then run.
    assert "MemoryDenyWriteExecute" not in service
    assert "noexec" not in str(service).lower()


def pods():
    """(labels, spec) of each pod template in the Kubernetes files, by name."""
    found = {}
    for document in documents():
        spec = document.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            found[document["metadata"]["name"]] = (template["metadata"]["labels"], template["spec"])
    return found


def documents():
    files = sorted(f for f in KUBERNETES.glob("*.yaml") if f.name != KUSTOMIZATION)
    return [d for file in files for d in yaml.safe_load_all(file.read_text())]


@pytest.mark.parametrize("name", ["recsys", "recsys-nightly"])
def test_pods_are_closed(name):
    _, spec = pods()[name]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
        assert {entry["name"] for entry in container["env"]} == {"PGPASSWORD"}
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/var/cache/recsys", "/srv/recsys/work"} <= mounts
        assert {m["name"] for m in container["volumeMounts"]} == {
            v["name"] for v in spec["volumes"]
        }


@pytest.mark.parametrize("name", ["recsys", "recsys-nightly"])
def test_each_pod_has_a_network_policy_of_its_own(name):
    labels, spec = pods()[name]
    policies = [
        d["spec"]
        for d in documents()
        if d["kind"] == "NetworkPolicy"
        and d["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ]
    assert len(policies) == 1, "a second one would only add ways in"
    policy = policies[0]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert all(way["ports"] for way in [*policy["ingress"], *policy["egress"]])
    ports = {p["containerPort"] for c in spec["containers"] for p in c.get("ports", [])}
    assert {p["port"] for way in policy["ingress"] for p in way["ports"]} == ports
    assert all(way["from"] for way in policy["ingress"])


def test_the_image_keeps_compiled_code_apart_from_the_workspace():
    text = (DEPLOY / "Containerfile").read_text()
    assert "NUMBA_CACHE_DIR=/var/cache/recsys/" in text
    assert "install -d -o recsys -m 0700 /var/cache/recsys" in text
    assert text.index("USER 10001") < text.index("CMD [")


# --- Kustomize ------------------------------------------------------------------------------------


def built(folder):
    """The documents of a kustomization, its patches applied as kustomize does; by (kind, name)."""
    spec = yaml.safe_load((folder / KUSTOMIZATION).read_text())
    assert (spec["apiVersion"], spec["kind"]) == (
        "kustomize.config.k8s.io/v1beta1",
        "Kustomization",
    )
    found = {}
    for entry in spec["resources"]:
        place = (folder / entry).resolve()
        files = built(place).values() if place.is_dir() else yaml.safe_load_all(place.read_text())
        found |= {(d["kind"], d["metadata"]["name"]): d for d in copy.deepcopy(list(files))}
    for patch in spec.get("patches", ()):
        target = patch["target"]["kind"], patch["target"]["name"]
        for change in yaml.safe_load(patch["patch"]):
            _change(found[target], change)
    for document in found.values():
        _tag(document, {image["name"]: image["newTag"] for image in spec.get("images", ())})
        if spec.get("namespace") and document["kind"] != "Namespace":
            document["metadata"]["namespace"] = spec["namespace"]
    return found


def _change(document, change):
    """One operation of a JSON patch."""
    *path, last = [
        part.replace("~1", "/").replace("~0", "~") for part in change["path"].split("/")[1:]
    ]
    place = document
    for part in path:
        place = place[int(part) if isinstance(place, list) else part]
    if change["op"] == "remove":
        del place[last]
    elif isinstance(place, list):
        place.append(change["value"]) if last == "-" else place.insert(int(last), change["value"])
    else:
        assert change["op"] == "add" or last in place, f"nothing to replace at {change['path']}"
        place[last] = change["value"]


def _tag(value, tags):
    if isinstance(value, list):
        for entry in value:
            _tag(entry, tags)
    elif isinstance(value, dict):
        name = str(value.get("image", "")).rpartition(":")[0]
        if name in tags:
            value["image"] = f"{name}:{tags[name]}"
        for entry in value.values():
            _tag(entry, tags)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_the_base_with_what_it_says(name):
    base, found = built(KUBERNETES), built(KUBERNETES / "overlays" / name)
    assert base.keys() <= found.keys()
    assert found != base
    for kind, name in (("Deployment", "recsys"), ("CronJob", "recsys-nightly")):
        assert "securityContext" in str(found[kind, name]), "an overlay opens nothing"


def test_the_autoscaler_asks_for_a_metric_that_the_service_gives(metric_names):
    found = built(KUBERNETES / "overlays" / "monitored")
    scaler = found["HorizontalPodAutoscaler", "recsys"]["spec"]
    target = scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]
    assert "replicas" not in found[target]["spec"], "two would set the number"
    assert scaler["metrics"][0]["pods"]["metric"]["name"] in metric_names
    budget = found["PodDisruptionBudget", "recsys"]["spec"]["minAvailable"]
    assert scaler["minReplicas"] > budget
    monitor = found["ServiceMonitor", "recsys"]["spec"]
    service = found["Service", "recsys"]
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    ways = found["NetworkPolicy", "recsys"]["spec"]["ingress"]
    assert any("namespaceSelector" in way["from"][0] for way in ways), "the scraper may come in"


def test_the_gpu_night_asks_for_one():
    job = built(KUBERNETES / "overlays" / "gpu")["CronJob", "recsys-nightly"]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["containers"][0]["image"].endswith("-cuda")


def test_two_shops_share_nothing():
    shops = [built(KUBERNETES / "overlays" / name) for name in ("books", "wine")]
    spaces = [shop["CronJob", "recsys-nightly"]["metadata"]["namespace"] for shop in shops]
    starts = [shop["CronJob", "recsys-nightly"]["spec"]["schedule"] for shop in shops]
    configs = [
        RecsysConfig.model_validate(
            yaml.safe_load(shop["ConfigMap", "recsys"]["data"]["recsys.yaml"])
        )
        for shop in shops
    ]
    for apart in (spaces, starts, [c.name for c in configs], [c.serving.log for c in configs]):
        assert len(set(apart)) == 2, apart
    for shop, space in zip(shops, spaces, strict=True):
        assert shop["Namespace", space]


def test_kubernetes_files_fit_the_schemas_of_kubernetes():
    checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not here")
    for name in OVERLAYS:
        for (kind, _), document in built(KUBERNETES / "overlays" / name).items():
            if kind != "ServiceMonitor":
                checker.validate(document, "1.33", strict=True)
