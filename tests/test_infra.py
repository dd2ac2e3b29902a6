"""What infra/ says, against the tools that read it and the code that it starts."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
LOOPBACK = "127.0.0.1"
PORTS = {"mlflow": 5000, "ray": 6379, "s3": 8333}


def read(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text())


def pinned(package: str) -> str:
    """The version in requirements.lock."""
    found = re.search(rf"^{package}==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


def command_lines(text: str, program: str) -> list[list[str]]:
    """The words of every command line in a shell script that begins with ``program``."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [
        shlex.split(found, comments=True)
        for found in re.findall(rf"(?:^|[;&(|]|\s)({program} [^;&|)\n]*)", joined)
    ]


# --- Dockerfile ----------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Name and arguments, lines that go on joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (INFRA / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [
        (name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line)
    ]


def stages() -> dict[str, list[tuple[str, str]]]:
    found = dict[str, list[tuple[str, str]]]()
    for name, rest in instructions():
        if name == "FROM":
            image, _, stage = rest.partition(" AS ")
            found[stage] = []
            assert "/" not in image  # one of Docker's own, not some host's
        else:
            found[list(found)[-1]].append((name, rest))
    return found


def test_the_image_has_known_instructions_in_shell_that_parses():
    known = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "CMD"}
    assert {name for name, _ in instructions()} <= known
    for name, rest in instructions():
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", rest], check=True)


def test_the_image_copies_what_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored  # nothing else: neither data nor secrets get into an image
    copied = set[str]()
    for name, rest in stages()["segcore"]:
        if name == "COPY":
            copied |= set(rest.split()[:-1])
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_images_run_as_somebody_and_listen_on_loopback():
    for stage in stages().values():
        kinds = [name for name, _ in stage]
        assert kinds.index("USER") > max(n for n, name in enumerate(kinds) if name == "RUN")
    command = yaml.safe_load(dict(stages()["tracking"])["CMD"])
    assert command[command.index("--host") + 1] == LOOPBACK


def test_the_images_have_the_versions_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    mlflow = next(
        each for each in project["optional-dependencies"]["pipelines"] if "mlflow" in each
    )
    installed = " ".join(rest for _, rest in stages()["tracking"])
    assert f'"{mlflow}"' in installed
    minor = re.search(r">=3\.(\d+)", project["requires-python"])
    assert minor
    bases = {rest.split()[0] for name, rest in instructions() if name == "FROM"}
    assert bases == {f"python:3.{minor[1]}-slim-bookworm"}


# --- compose.yaml --------------------------------------------------------------------------------


def services() -> dict[str, dict[str, Any]]:
    return read("compose.yaml")["services"]


def test_the_stack_publishes_on_loopback_alone():
    published = [port for each in services().values() for port in each.get("ports", [])]
    assert published == [f"{LOOPBACK}:{PORTS['s3']}:8333", f"{LOOPBACK}:{PORTS['mlflow']}:5000"]
    assert not any("network_mode" in each or "privileged" in each for each in services().values())


def test_every_service_is_health_checked_and_waits_for_those_it_needs():
    for name, service in services().items():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD", name
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert other in services()
    assert set(services()["mlflow"]["depends_on"]) == {"postgres", "store"}
    assert set(services()["worker"]["depends_on"]) == {"mlflow"}


def test_no_secret_is_written_down_and_none_may_be_missing():
    text = (INFRA / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    assert wanted == {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "RAY_AUTH_TOKEN"}
    for service in services().values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN|KEY", name):
                assert value.startswith("${"), name
    documented = (ROOT / "docs/cluster.md").read_text()
    assert all(name in documented for name in wanted)
    ignored = ["git", "-C", str(ROOT), "check-ignore", "--quiet", "infra/.env"]
    if (ROOT / ".git").exists():
        assert subprocess.run(ignored, check=False).returncode == 0


def test_the_trackers_addresses_are_those_of_its_neighbours():
    mlflow, worker = services()["mlflow"], services()["worker"]
    environment = mlflow["environment"]
    assert "@postgres:5432/mlflow" in environment["MLFLOW_BACKEND_STORE_URI"]
    assert services()["postgres"]["environment"]["POSTGRES_DB"] == "mlflow"
    bucket = f"-bucket={environment['MLFLOW_ARTIFACTS_DESTINATION'].split('/')[2]}"
    assert bucket in services()["store"]["command"]
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == f"http://store:{PORTS['s3']}"
    assert worker["environment"]["MLFLOW_TRACKING_URI"] == f"http://mlflow:{PORTS['mlflow']}"
    assert "mlflow:5000" in environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    for service in (mlflow, worker):
        build = service["build"]
        assert (INFRA / build["context"] / build["dockerfile"]).is_file()
        assert build["target"] in stages()


def test_the_tracking_server_takes_these_options_and_variables():
    from mlflow.cli import server

    options = {name: option for option in server.params for name in option.opts}
    words = services()["mlflow"]["command"]
    assert words[:2] == ["mlflow", "server"]
    assert {word for word in words if word.startswith("--")} <= options.keys()
    read_by_server = {option.envvar for option in server.params}
    named = {name for name in services()["mlflow"]["environment"] if name.startswith("MLFLOW_")}
    assert named - read_by_server == {"MLFLOW_S3_ENDPOINT_URL"}
    assert words[words.index("--workers") + 1] == "1"


# --- Ray -----------------------------------------------------------------------------------------


def ray_starts() -> dict[str, list[list[str]]]:
    """Every `ray start` of infra/, by file."""
    cluster = read("ray-cluster.yaml")
    launched = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    return {
        "compose.yaml": [services()["worker"]["command"]],
        "ray-cluster.yaml": command_lines("\n".join(launched), "ray start"),
        "slurm.sbatch": [
            ["ray", "start", *words[2:]]
            for words in command_lines((INFRA / "slurm.sbatch").read_text(), "ray_node")
        ],
    }


def test_ray_is_started_with_options_that_it_has():
    from ray.scripts.scripts import start

    known = {name for option in start.params for name in (*option.opts, *option.secondary_opts)}
    for file, commands in ray_starts().items():
        assert commands, file
        for words in commands:
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert given <= known, file


def test_every_head_keeps_its_dashboard_on_loopback_and_its_port():
    for file, commands in ray_starts().items():
        heads = [words for words in commands if "--head" in words]
        assert len(heads) == 1, file
        assert f"--dashboard-host={LOOPBACK}" in heads[0], file
        ports = [word for word in heads[0] if word.startswith("--port=")]
        assert ports in ([], ["--port=6379"], ["--port=$port"]), file


def test_token_authentication_is_on_everywhere():
    assert "RAY_AUTH_MODE=token" in dict(stages()["segcore"])["ENV"].split()
    assert "RAY_AUTH_TOKEN" in services()["worker"]["environment"]
    cluster = read("ray-cluster.yaml")
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token ray start" in commands[-1]
    assert list(cluster["file_mounts"]) == ["~/.ray/auth_token"]  # where Ray looks for it
    assert read("kuberay.yaml")["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    alone = services()["worker"]
    assert f"--node-ip-address={LOOPBACK}" in alone["command"]
    assert alone["environment"]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    script = (INFRA / "slurm.sbatch").read_text()
    assert script.index("RAY_AUTH_MODE=token") < script.index("ray start")
    assert script.index("umask 077") < script.index("ray start")


def test_the_cloud_launcher_takes_the_cluster():
    """By the schema and the checks that `ray up` applies, after it has added its defaults."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read("ray-cluster.yaml")
    filled = prepare_config(config)
    validate_config(filled)
    assert filled["available_node_types"]["gpu"]["max_workers"] == config["max_workers"]
    assert not filled["setup_commands"]  # the default ones would install another Ray
    broken = {**config, "max_wrokers": 3}
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(broken))


def ray_job() -> dict[str, Any]:
    return read("kuberay.yaml")["spec"]


def test_rays_autoscaler_reads_the_kubernetes_cluster():
    from ray.autoscaler._private.kuberay import autoscaling_config

    spec = ray_job()["rayClusterSpec"]
    resource = {"metadata": {"name": "segcore", "namespace": "default"}, "spec": spec}
    told = autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)
    gpu = told["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 8)
    assert gpu["resources"] | {"memory": 0} == {"CPU": 8, "GPU": 1, "memory": 0}
    assert told["available_node_types"][told["head_node_type"]]["resources"]["CPU"] == 0
    assert told["idle_timeout_minutes"] == 5
    assert spec["enableInTreeAutoscaling"] is True


def test_the_kubernetes_job_is_whole():
    job, document = ray_job(), read("kuberay.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    assert job["rayClusterSpec"]["rayVersion"] == pinned("ray")
    assert job["shutdownAfterJobFinishes"] is True
    groups = [job["rayClusterSpec"]["headGroupSpec"], *job["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["image"] == services()["worker"]["image"]
        assert container["workingDir"] == services()["worker"]["working_dir"]
        limits, requests = (container["resources"][kind] for kind in ("limits", "requests"))
        assert limits == requests
    stage, _, row = job["entrypoint"].removeprefix("dvc repro ").partition("@")
    assert stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert row in yaml.safe_load((ROOT / "params.yaml").read_text())["rows"]


# --- Slurm ---------------------------------------------------------------------------------------


def test_the_slurm_script_parses_and_asks_for_what_it_uses():
    path = INFRA / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    asked = re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", path.read_text(), re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "signal", "requeue"} <= dict(asked).keys()
    assert dict(asked)["signal"] == "B:TERM@180"
    first_command = path.read_text().index("set -euo pipefail")
    assert path.read_text().rindex("#SBATCH") < first_command  # Slurm reads no further


def test_the_slurm_script_says_what_it_wants(tmp_path: Path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    told = subprocess.run(
        ["bash", str(INFRA / "slurm.sbatch")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert "name the rows" in told.stderr
