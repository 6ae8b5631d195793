"""What infra/ holds is valid for its readers, runs commands that exist, and is as closed as it claims."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines.cli.subprocesses import GRACE
from pipelines.cli.verbs import VERBS
from tests.infra.kube import documents, pod_templates, validate

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
UNITS = sorted((INFRA / "systemd").iterdir())
SYSTEMD = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
INVALID = (jsonschema.ValidationError, kubernetes_validate.ValidationError)
Spoil = Callable[[dict[str, Any]], Any]


def document(kind: str) -> dict[str, Any]:
    (found,) = [part for path in MANIFESTS for part in documents(path) if part["kind"] == kind]
    return copy.deepcopy(found)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_is_valid(path: Path) -> None:
    for part in documents(path):
        validate(part)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("RayCronJob", lambda d: d["spec"].update(shedule="* * * * *")),
        ("RayCronJob", lambda d: d["spec"].pop("schedule")),
        ("RayCronJob", lambda d: d["spec"].update(schedule="daily")),
        ("RayCronJob", lambda d: d["spec"].update(concurrencyPolicy="Forbid")),
        ("RayCronJob", lambda d: d["spec"]["jobTemplate"].update(spec={})),
        (
            "RayCronJob",
            lambda d: d["spec"]["jobTemplate"]["submitterPodTemplate"]["spec"].update(restart="x"),
        ),
        ("RayCluster", lambda d: d["spec"]["authOptions"].update(mode="password")),
        ("RayCluster", lambda d: d["spec"]["workerGroupSpecs"][0].update(replica=2)),
        ("RayCluster", lambda d: next(pod_templates(d))["spec"]["containers"][0].update(imagee="x")),
        ("CronJob", lambda d: d["spec"].update(concurrencyPolicy=1)),
        ("CronJob", lambda d: d["spec"].update(concurrency="Forbid")),
        ("NetworkPolicy", lambda d: d["spec"].update(ingres=[])),
    ],
)
def test_broken_manifest_is_found(kind: str, spoil: Spoil) -> None:
    broken = document(kind)
    spoil(broken)
    with pytest.raises(INVALID):
        validate(broken)


def test_pods_have_no_rights_they_do_not_need() -> None:
    templates = [template for path in MANIFESTS for template in pod_templates(documents(path))]
    assert len(templates) == 6
    for template in templates:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
        if "ray" in spec["containers"][0]["name"]:
            assert spec["terminationGracePeriodSeconds"] > GRACE
    assert document("CronJob")["spec"]["concurrencyPolicy"] == "Forbid"
    for cluster in (
        document("RayCluster")["spec"],
        document("RayCronJob")["spec"]["jobTemplate"]["rayClusterSpec"],
    ):
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["rayVersion"] == version("ray")


def test_both_ray_manifests_describe_one_cluster() -> None:
    job = document("RayCronJob")["spec"]["jobTemplate"]
    assert job["rayClusterSpec"] == document("RayCluster")["spec"]


def commands() -> dict[str, str]:
    """Every command line of ours in infra/, by where it stands."""
    found = {"RayCronJob": document("RayCronJob")["spec"]["jobTemplate"]["entrypoint"]}
    (pod,) = pod_templates(document("CronJob"))
    found["CronJob"] = " ".join(pod["spec"]["containers"][0]["command"])
    for path in (*UNITS, INFRA / "cron/seqgen-retrain", INFRA / "README.md"):
        text = path.read_text().replace("\\\n", " ")
        for number, line in enumerate(text.splitlines()):
            if "-m pipelines." in line:
                found[f"{path.name}:{number}"] = line
    return found


def test_commands_exist() -> None:
    found = commands()
    assert {"RayCronJob", "CronJob"} < set(found)
    assert any(where.startswith("seqgen-retrain.service") for where in found)
    for where, command in found.items():
        for verb in re.findall(r"-m pipelines\.(\w+)", command):
            assert verb in VERBS, where


def test_retrain_takes_no_arguments_there_and_answers_help() -> None:
    for command in commands().values():
        assert not re.search(r"pipelines\.retrain[ ]+-(?!-help|-recipe)", command)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.retrain", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--force" in done.stdout


def test_mlflow_server_options_exist() -> None:
    from mlflow.cli import cli

    known = {option for part in cli.commands["server"].params for option in part.opts}
    service = yaml.safe_load((INFRA / "mlflow/compose.yaml").read_text())["services"]["server"]
    unit = (INFRA / "systemd/seqgen-mlflow.service").read_text()
    used = set(re.findall(r"(--[a-z][a-z-]*)", " ".join(service["command"]))) | set(
        re.findall(r"(--[a-z][a-z-]*)", unit.partition("ExecStart=")[2].partition("\nRestart")[0])
    )
    assert {"--backend-store-uri", "--artifacts-destination", "--host"} <= used
    assert used <= known


def test_compose_is_valid_and_on_loopback(tmp_path: Path) -> None:
    path = INFRA / "mlflow/compose.yaml"
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert subprocess.run([*check, str(path)], capture_output=True).returncode == 0
    broken = tmp_path / "compose.yaml"
    broken.write_text(path.read_text().replace("restart:", "restrat:", 1))
    assert subprocess.run([*check, str(broken)], capture_output=True).returncode != 0
    services = yaml.safe_load(path.read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def install_units(directory: Path) -> list[str]:
    """Copies of the units whose programs and directories exist here."""
    for path in UNITS:
        text = path.read_text().replace("/srv/seqgen/.venv/bin", str(Path(sys.executable).parent))
        text = text.replace("/srv/seqgen", str(directory)).replace("User=seqgen", "User=root")
        (directory / path.name).write_text(text)
    return [str(directory / path.name) for path in UNITS]


@SYSTEMD
def test_units_are_valid(tmp_path: Path) -> None:
    units = install_units(tmp_path)
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    about_ours = [line for line in done.stderr.splitlines() if "seqgen" in line]
    assert (done.returncode, about_ours) == (0, [])
    service = tmp_path / "seqgen-retrain.service"
    for broken in (("ExecStart=/", "ExecStart=/nowhere/"), ("KillMode=mixed", "KilMode=mixed")):
        text = service.read_text()
        service.write_text(text.replace(*broken))
        done = subprocess.run(["systemd-analyze", "verify", str(service)], capture_output=True, text=True)
        assert done.returncode != 0 or "KilMode" in done.stderr
        service.write_text(text)


@SYSTEMD
def test_timer_rings_once_a_night() -> None:
    timer = (INFRA / "systemd/seqgen-retrain.timer").read_text()
    (when,) = re.findall(r"^OnCalendar=(.*)$", timer, re.MULTILINE)
    command = ["systemd-analyze", "calendar", "--iterations=3", "--base-time=2026-03-28 12:00:00 UTC"]
    done = subprocess.run([*command, when], capture_output=True, text=True)
    assert done.returncode == 0
    assert re.findall(r"\d{4}-\d\d-\d\d 02:30:00 UTC", done.stdout) == [
        f"2026-03-{day} 02:30:00 UTC" for day in (29, 30, 31)
    ]
    assert subprocess.run([*command, when.replace("02:30", "25:30")], capture_output=True).returncode != 0


def test_crontab_line_is_one() -> None:
    (line,) = [
        line for line in (INFRA / "cron/seqgen-retrain").read_text().splitlines() if re.match(r"[\d*]", line)
    ]
    minute, hour, *rest, user, command = line.split(" ", 6)
    assert (int(minute), int(hour), rest, user) == (30, 2, ["*", "*", "*"], "seqgen")
    assert "%" not in command  # cron takes it for a newline
    schedules = {document(kind)["spec"]["schedule"] for kind in ("CronJob", "RayCronJob")}
    assert schedules == {" ".join((minute, hour, *rest))}


@pytest.mark.parametrize("there", [True, False])
def test_crontab_line_runs_in_the_environment_of_the_units(tmp_path: Path, there: bool) -> None:
    file, home = "/etc/seqgen/environment", "/srv/seqgen"
    assert f"EnvironmentFile=-{file}\n" in (INFRA / "systemd/seqgen-retrain.service").read_text()
    (line,) = re.findall(
        r"^[\d*].* seqgen (cd .*)$", (INFRA / "cron/seqgen-retrain").read_text(), re.MULTILINE
    )
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\nenv\n')
    python.chmod(0o755)
    if there:
        (tmp_path / "environment").write_text(
            "# of S3\nSEQGEN_MIRROR='a b$c'\nSEQGEN_STORAGE=s3://seqgen/ray\n"
        )
    command = line.replace(file, str(tmp_path / "environment")).replace(home, str(tmp_path))
    bare = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-c", command], env=bare, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    words = (tmp_path / ".seqgen/retrain.log").read_text().splitlines()
    assert words[0] == "-m pipelines.retrain"
    assert ("SEQGEN_MIRROR=a b$c" in words, "SEQGEN_STORAGE=s3://seqgen/ray" in words) == (there, there)


def test_driver_of_the_servers_database_is_installed_with_it() -> None:
    used = (INFRA / "systemd/seqgen-mlflow.service").read_text() + (INFRA / "mlflow/compose.yaml").read_text()
    assert re.findall(r"--backend-store-uri[ =](\w+\+\w+)://", used) == ["postgresql+psycopg"] * 2
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [re.split("[>=]", wanted)[0] for wanted in extras["server"]] == ["psycopg[binary]"]
    pinned = re.findall(r"^(psycopg[\w-]*)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert [name for name, _ in pinned] == ["psycopg", "psycopg-binary"]
    assert len({number for _, number in pinned}) == 1
    for name in ("Dockerfile", "README.md"):
        assert "uv pip install" in (text := (INFRA / name).read_text())
        assert "-c constraints.txt -e '.[server]'" in text


def test_image_is_made_of_what_is_here_and_runs_as_nobody() -> None:
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    sources = {source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]}
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources


def test_bucket_policy_allows_objects_under_three_prefixes_only() -> None:
    for statement in json.loads((INFRA / "s3-policy.json").read_text())["Statement"]:
        assert statement["Effect"] == "Allow"
        assert not [action for action in statement["Action"] if "*" in action]
        for resource in statement["Resource"]:
            if statement["Action"] != ["s3:ListBucket"]:
                assert re.fullmatch(r"arn:aws:s3:::seqgen/(ray|mlflow|dvc)/\*", resource)
            else:
                assert "s3:prefix" in statement["Condition"]["StringLike"]


@pytest.mark.parametrize("path", [path for path in INFRA.rglob("*") if path.is_file()], ids=lambda p: p.name)
def test_no_secret_is_written_down(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", line), line
        assert not re.search(
            r"(?i)(password|secret_access_key|token):? *=? *['\"]?[a-z0-9+/]{8,}['\"]?$", line
        ), line
