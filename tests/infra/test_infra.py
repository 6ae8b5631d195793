"""What infra/ holds is valid for its readers, runs commands that exist, and is as closed as it claims."""

from __future__ import annotations

import copy
import os
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

from pipelines.cli.verbs import VERBS
from pipelines.cluster.head import JOB_STOP_SECONDS
from tests.infra.kube import documents, pod_templates, validate

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
UNITS = sorted((INFRA / "systemd").iterdir())
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
SYSTEMD = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
DASHBOARD, SERVE = 8265, 8000  # Ray's defaults
INVALID = (jsonschema.ValidationError, kubernetes_validate.ValidationError)
Spoil = Callable[[dict[str, Any]], Any]


def document(kind: str, name: str = "") -> dict[str, Any]:
    """The only document of that kind, or of that kind and name."""
    parts = [part for path in MANIFESTS for part in documents(path) if part["kind"] == kind]
    (found,) = [part for part in parts if name in ("", part["metadata"]["name"])]
    return copy.deepcopy(found)


CRONJOB = ("CronJob", "seqgen-retrain")
RAYJOBS = [("RayJob", "seqgen-train"), ("RayJob", "seqgen-train-gpu")]


def clusters() -> list[dict[str, Any]]:
    """The specs of all Ray clusters: the standing one, those of the service, of a scheduled and of two single jobs."""
    jobs = [document("RayCronJob")["spec"]["jobTemplate"], *(document(*job)["spec"] for job in RAYJOBS)]
    served = document("RayService")["spec"]["rayClusterConfig"]
    return [document("RayCluster")["spec"], served, *(job["rayClusterSpec"] for job in jobs)]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_is_valid(path: Path) -> None:
    for part in documents(path):
        validate(part)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("RayJob", lambda d: d["spec"].update(entrypont="true")),
        ("RayJob", lambda d: d["spec"].update(activeDeadlineSeconds="1h")),
        ("StatefulSet", lambda d: d["spec"].update(service="x")),
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
        ("RayService", lambda d: d["spec"].update(serveConfig="applications: []")),
        ("RayService", lambda d: d["spec"]["rayClusterConfig"].pop("headGroupSpec")),
        ("CronJob", lambda d: d["spec"].update(concurrencyPolicy=1)),
        ("CronJob", lambda d: d["spec"].update(concurrency="Forbid")),
        ("NetworkPolicy", lambda d: d["spec"].update(ingres=[])),
    ],
)
def test_broken_manifest_is_found(kind: str, spoil: Spoil) -> None:
    names = {"RayJob": "seqgen-train", "CronJob": "mlflow-backup", "NetworkPolicy": "mlflow-db"}
    broken = document(kind, names.get(kind, ""))
    spoil(broken)
    with pytest.raises(INVALID):
        validate(broken)


def test_pods_have_no_rights_they_do_not_need() -> None:
    templates = [template for path in MANIFESTS for template in pod_templates(documents(path))]
    assert len(templates) == 17
    for template in templates:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
    for path in MANIFESTS:
        for part in documents(path):
            if part["kind"] == "CronJob":
                assert part["spec"]["concurrencyPolicy"] == "Forbid"
            if part["kind"] == "Namespace":
                assert part["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    for cluster in clusters():
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["rayVersion"] == version("ray")


def test_all_ray_manifests_describe_one_cluster() -> None:
    standing, served, scheduled, job, gpus = clusters()
    assert standing == served == scheduled == job
    # What GPUs change is the workers' hardware, the image and the memory that their processes share.
    worker = gpus["workerGroupSpecs"][0]["template"]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker.pop("tolerations") == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    worker["containers"][0]["resources"] = gpus["headGroupSpec"]["template"]["spec"]["containers"][0][
        "resources"
    ]
    for template in pod_templates(gpus):
        for container in (*template["spec"]["containers"], *template["spec"]["initContainers"]):
            container["image"] = container["image"].removesuffix("-cuda")
        template["spec"]["volumes"][1]["emptyDir"]["sizeLimit"] = "2Gi"
    assert gpus == standing


def test_ray_serve_takes_its_configuration_and_finds_a_node_for_each_replica() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="the extra ray-serve is not installed")
    from pipelines.cluster import serving

    service = document("RayService")["spec"]
    written = yaml.safe_load(service["serveConfigV2"])
    deployed = schema.ServeDeploySchema.model_validate(written)
    assert (deployed.http_options.host, deployed.http_options.port) == ("0.0.0.0", SERVE)
    (application,) = deployed.applications
    assert set(written["applications"][0]) <= set(schema.ServeApplicationSchema.model_fields)
    assert application.import_path == f"{serving.__name__}:{serving.app.__name__}"
    assert serving.Arguments(**application.args).source.endswith("@champion")
    (deployment,) = application.deployments
    (workers,) = service["rayClusterConfig"]["workerGroupSpecs"]
    assert deployment.num_replicas == 1 + workers["replicas"]
    for template in pod_templates(service):
        (container,) = template["spec"]["containers"]
        cpus = int(container["resources"]["limits"]["cpu"])
        assert deployment.ray_actor_options.num_cpus == cpus  # a second one does not fit


def test_kernels_are_built_where_they_run_and_kept_for_the_next() -> None:
    settings = document("ConfigMap", "seqgen")["data"]
    for cluster in clusters():
        for template in pod_templates(cluster):
            (kernels,) = template["spec"]["initContainers"]
            (main,) = template["spec"]["containers"]
            assert "python -m seqgen.native" in kernels["command"][-1]
            assert all(kernels[key] == main[key] for key in ("image", "envFrom", "volumeMounts"))
            places = [mount["mountPath"] for mount in kernels["volumeMounts"] if mount["name"] == "project"]
            assert [Path(settings["XDG_CACHE_HOME"]).is_relative_to(place) for place in places] == [True]


def test_where_kuberay_is_installed_its_operator_and_nobody_else_is_admitted() -> None:
    inside, operator = document("NetworkPolicy", "seqgen")["spec"]["ingress"]
    assert inside == {"from": [{"podSelector": {}}]}
    (peer,) = operator["from"]  # one entry: a namespace of these and a pod of that label
    (places,) = peer["namespaceSelector"]["matchExpressions"]
    assert places["key"] == "kubernetes.io/metadata.name"
    assert set(places["values"]) >= {"ray-system", "default"}
    assert peer["podSelector"] == {"matchLabels": {"app.kubernetes.io/component": "kuberay-operator"}}
    assert [port["port"] for port in operator["ports"]] == [DASHBOARD, SERVE]
    # A container's port of the name "serve" would be asked instead of Serve's default.
    for template in pod_templates(document("RayService")):
        assert all("ports" not in container for container in template["spec"]["containers"])


def test_mlflow_is_where_its_clients_look_and_its_database_is_its_own() -> None:
    service = document("Service", "mlflow")
    place = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    address = f"{place}:{service['spec']['ports'][0]['port']}"
    assert document("ConfigMap", "seqgen")["data"]["MLFLOW_TRACKING_URI"] == f"http://{address}"
    (pod,) = pod_templates(document("Deployment"))
    command = pod["spec"]["containers"][0]["command"]
    assert address in next(word for word in command if word.startswith("--allowed-hosts="))
    labels = pod["metadata"]["labels"]
    policy = document("NetworkPolicy", "mlflow")["spec"]
    assert service["spec"]["selector"] == labels == {"app": "mlflow"}
    assert policy["podSelector"]["matchExpressions"] == [
        {"key": "app", "operator": "NotIn", "values": ["mlflow-db"]}
    ]
    (caller,) = policy["ingress"][0]["from"]
    assert caller == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "seqgen"}}}
    database = document("NetworkPolicy", "mlflow-db")["spec"]
    assert "egress" not in database
    assert set(database["policyTypes"]) == {"Ingress", "Egress"}
    (backup,) = pod_templates(document("CronJob", "mlflow-backup"))
    (callers,) = database["ingress"][0]["from"][0]["podSelector"]["matchExpressions"]
    assert callers["values"] == [labels["app"], backup["metadata"]["labels"]["app"]]


def test_login_and_backup_are_the_same_everywhere() -> None:
    settings = document("ConfigMap", "mlflow")["data"]
    for name, text in settings.items():
        assert text == (INFRA / "mlflow" / name).read_text()
    for start in server_commands().values():
        assert "--app-name" in start
        assert "basic-auth" in start
        assert "--allowed-hosts" in start


def commands() -> dict[str, str]:
    """Every command line of ours in infra/, by where it stands."""
    found = {"RayCronJob": document("RayCronJob")["spec"]["jobTemplate"]["entrypoint"]}
    found |= {name: document(kind, name)["spec"]["entrypoint"] for kind, name in RAYJOBS}
    (pod,) = pod_templates(document(*CRONJOB))
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


def server_commands() -> dict[str, str]:
    """How MLflow's server is started in each place."""
    unit = (INFRA / "systemd/seqgen-mlflow.service").read_text().replace("\\\n", " ")
    service = yaml.safe_load((INFRA / "mlflow/compose.yaml").read_text())["services"]["server"]
    (pod,) = pod_templates(document("Deployment"))
    return {
        "systemd": re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0],
        "compose": " ".join(service["command"]),
        "kubernetes": " ".join(pod["spec"]["containers"][0]["command"]),
    }


def test_mlflow_server_options_exist() -> None:
    from mlflow.cli import cli

    known = {option for part in cli.commands["server"].params for option in part.opts}
    for where, command in server_commands().items():
        used = set(re.findall(r"(--[a-z][a-z-]*)", command))
        assert {"--backend-store-uri", "--artifacts-destination", "--host"} <= used, where
        assert used <= known, where


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
        text = text.replace("/srv/seqgen", str(ROOT)).replace("User=seqgen", "User=root")
        (directory / path.name).write_text(text)
    return [str(directory / path.name) for path in UNITS]


def test_a_failure_of_any_unit_alerts() -> None:
    services = [path for path in UNITS if path.suffix == ".service" and "@" not in path.name]
    assert len(services) == 3
    for path in services:
        assert "\nOnFailure=seqgen-alert@%n.service\n" in path.read_text()


@SYSTEMD
@pytest.mark.parametrize("path", [path for path in UNITS if path.suffix == ".service"], ids=lambda p: p.stem)
def test_units_are_closed(path: Path) -> None:
    """By systemd's own measure, where 10 is a service with every right; what opens the rest is the network."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=60", str(path)]
    assert subprocess.run(command, capture_output=True).returncode == 0


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


def test_one_machine_is_installed_in_an_order_that_works() -> None:
    section = (INFRA / "README.md").read_text().partition("## One machine\n")[2].partition("\n## ")[0]
    said = [
        r"^apt-get install .*\bcurl\b",
        r"^cp infra/systemd/\*",
        r"^systemctl enable --now .*\bseqgen-mlflow\.service\b",
        r"^curl .*/mlflow/users/create",
        r"^systemctl enable --now .*\bseqgen-retrain\.timer\b",
        r"^systemctl start --no-block seqgen-retrain\b",  # a oneshot unit: without it start waits for the end
        r"^journalctl -fu seqgen-retrain\b",
    ]
    lines = re.findall(r"^    (.*)$", section, re.MULTILINE)
    places = [[number for number, line in enumerate(lines) if re.search(wanted, line)] for wanted in said]
    assert [len(found) for found in places] == [1] * len(said)
    assert places == sorted(places)
    assert "\nType=oneshot\n" in (INFRA / "systemd/seqgen-retrain.service").read_text()


def test_crontab_line_is_one() -> None:
    (line,) = [
        line for line in (INFRA / "cron/seqgen-retrain").read_text().splitlines() if re.match(r"[\d*]", line)
    ]
    minute, hour, *rest, user, command = line.split(" ", 6)
    assert (int(minute), int(hour), rest, user) == (30, 2, ["*", "*", "*"], "seqgen")
    assert "%" not in command  # cron takes it for a newline
    schedules = {document(*job)["spec"]["schedule"] for job in (CRONJOB, ("RayCronJob",))}
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


def test_what_the_server_needs_is_installed_with_it() -> None:
    for command in server_commands().values():
        assert "--backend-store-uri" in command
        assert "postgresql+psycopg:///mlflow" in command
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [re.split("[>=]", wanted)[0] for wanted in extras["server"]] == ["mlflow[auth]", "psycopg[binary]"]
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pins["psycopg"] == pins["psycopg-binary"]
    assert {"flask-wtf", "wtforms"} <= set(pins)
    for name, extra in (("Dockerfile", "server,ray-serve"), ("README.md", "server")):
        assert "uv pip install" in (text := (INFRA / name).read_text())
        assert f"-c constraints.txt -e '.[{extra}]'" in text


def test_images_are_pinned_by_digest_and_ours_by_version() -> None:
    pods = [template for path in MANIFESTS for template in pod_templates(documents(path))]
    compose = yaml.safe_load((INFRA / "mlflow/compose.yaml").read_text())["services"].values()
    images = [container["image"] for pod in pods for container in pod["spec"]["containers"]]
    images += [service["image"] for service in compose]
    images += re.findall(r"^FROM (\S+)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    others = {image for image in images if not image.startswith("registry.example/seqgen:0.1.0")}
    assert {image.partition(":")[0] for image in others} == {"python", "postgres"}
    assert len(others) == 2
    for image in others:
        assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image), image


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint here")
def test_dockerfile_is_one(tmp_path: Path) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, str(INFRA / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    broken = tmp_path / "Dockerfile"
    broken.write_text(
        (INFRA / "Dockerfile").read_text().replace("apt-get install --yes", "sudo apt-get install")
    )
    assert subprocess.run([HADOLINT, str(broken)], capture_output=True).returncode != 0


def test_ray_takes_the_cluster_of_virtual_machines_and_the_cloud_its_machines() -> None:
    import botocore.session
    from botocore.validate import ParamValidator
    from ray.autoscaler._private.util import prepare_config, validate_config

    written = yaml.safe_load((INFRA / "vm/ray-aws.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(written)))
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config({**copy.deepcopy(written), "idle_timeout": 3}))
    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    for kind in written["available_node_types"].values():
        asked = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        assert asked.pop("SubnetIds")  # Ray's own key
        assert not ParamValidator().validate(asked, shape).generate_report()
        assert ParamValidator().validate({**asked, "InstanceTyp": "x"}, shape).has_errors()
        assert asked["SecurityGroupIds"], "without one Ray opens port 22 to the world"
        assert asked["MetadataOptions"]["HttpTokens"] == "required"
    for start in (*written["head_start_ray_commands"][1:], *written["worker_start_ray_commands"][1:]):
        for setting in ("RAY_AUTH_MODE=token", f"RAY_JOB_STOP_WAIT_TIME_S={JOB_STOP_SECONDS}"):
            assert setting in start
        assert "--dashboard-host=127.0.0.1" in start or "--address=$RAY_HEAD_IP" in start


def test_image_is_made_of_what_is_here_and_runs_as_nobody() -> None:
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    sources = {source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]}
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources


@pytest.mark.parametrize("path", [path for path in INFRA.rglob("*") if path.is_file()], ids=lambda p: p.name)
def test_no_secret_is_written_down(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", line), line
        assert not re.search(
            r"(?i)(password|secret_access_key|token):? *=? *['\"]?[a-z0-9+/]{8,}['\"]?$", line
        ), line
