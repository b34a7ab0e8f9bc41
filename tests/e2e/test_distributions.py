"""What a release is: the sdist and the wheel, what is in them, and a server installed from them."""

import base64
import email
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from PIL import Image

from tests.e2e.real_server import RealServer, ServerProcess

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
VERSION = "9.8.7"
MAX_BYTES = 12 * 1024**2  # the demo model is 10.6 MB
NOT_SHIPPED = ("tests/", "docker/", "docs/", ".ci/", ".git", "benchmarks/results/")


@dataclass(frozen=True, slots=True)
class Distributions:
    """Files of both by name, without the sdist's folder; the wheel is made from the sdist."""

    sdist_path: Path
    wheel_path: Path
    sdist: Mapping[str, bytes]
    wheel: Mapping[str, bytes]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a repository of one commit, without tags."""
    folder = tmp_path_factory.mktemp("release") / "tree"
    for name in project_files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
    run("git", *identity, "commit", "--quiet", "--message", "all", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distributions]:
    """As `make dist` makes them from a commit that has a tag."""
    folder = tmp_path_factory.mktemp("dist")
    run("git", "tag", f"v{VERSION}", cwd=tree)
    build(tree, folder)
    [sdist_path], [wheel_path] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    yield Distributions(sdist_path, wheel_path, read_sdist(sdist_path), read_wheel(wheel_path))
    run("git", "tag", "--delete", f"v{VERSION}", cwd=tree)


@pytest.fixture(scope="module")
def installed(built: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, which sees the locked packages of this one.

    A path in a .pth file is not searched for .pth files, so nothing of an editable install works.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    packages = run_installed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    others = [sysconfig.get_path("purelib"), *extra_paths()]
    Path(packages.strip(), "locked.pth").write_text("\n".join(others))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(built.wheel_path), cwd=folder)
    return folder / "bin"


def test_the_version_is_the_tag(built: Distributions) -> None:
    assert built.wheel_path.name == f"qwen3vl_serve-{VERSION}-py3-none-any.whl"
    assert built.sdist_path.name == f"qwen3vl_serve-{VERSION}.tar.gz"


def test_a_clone_without_tags_and_a_copy_without_git_have_versions(
    tree: Path, tmp_path: Path
) -> None:
    clone, copy = tmp_path / "clone", tmp_path / "copy"
    run("git", "clone", "--quiet", "--no-tags", str(tree), str(clone), cwd=tmp_path)
    assert find_version(clone).startswith("0.1.dev1+g")
    shutil.copytree(clone, copy, ignore=shutil.ignore_patterns(".git"))
    assert find_version(copy) == "0.1.dev0"
    assert find_version(copy, SETUPTOOLS_SCM_PRETEND_VERSION="0.3.1") == "0.3.1"


def test_the_sdist_holds_its_version(built: Distributions, tmp_path: Path) -> None:
    with tarfile.open(built.sdist_path) as archive:
        archive.extractall(tmp_path, filter="data")
    assert find_version(tmp_path / f"qwen3vl_serve-{VERSION}") == VERSION


def test_the_wheel_holds_the_modules_and_the_package_data(built: Distributions) -> None:
    shipped = {name for name in built.wheel if ".dist-info/" not in name}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    data = {
        path.relative_to(ROOT).as_posix()
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    top = {package.partition(".")[0] for package in settings["packages"]}
    modules = {n for n in project_files() if n.endswith(".py") and n.partition("/")[0] in top}
    assert "demo/checkpoint/model.safetensors" in data
    assert {"benchmarks/load/cli.py", "server/cli.py"} <= modules
    assert shipped == modules | data


def test_the_wheel_from_the_sdist_is_the_one_from_the_tree(
    built: Distributions, tree: Path, tmp_path: Path
) -> None:
    build(tree, tmp_path, "--wheel")
    [path] = tmp_path.glob("*.whl")
    assert read_wheel(path) == built.wheel


def test_neither_holds_tests_or_traces_of_the_machine(built: Distributions, tree: Path) -> None:
    traces = [str(path).encode() for path in (ROOT, tree, Path.home() / "x", sys.prefix)]
    for files in (built.sdist, built.wheel):
        assert [name for name in files if name.startswith(NOT_SHIPPED)] == []
        assert [name for name in files if name.endswith((".pyc", ".so", ".lock~"))] == []
        assert [n for n, content in files.items() if any(t in content for t in traces)] == []
    assert built.sdist_path.stat().st_size < MAX_BYTES
    assert built.wheel_path.stat().st_size < MAX_BYTES


def test_what_the_wheel_says_about_itself_is_valid(built: Distributions) -> None:
    text = built.wheel[f"qwen3vl_serve-{VERSION}.dist-info/METADATA"]
    metadata = Metadata.from_email(text, validate=True)
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text()
    assert email.message_from_bytes(text)["Version"] == VERSION
    assert f"qwen3vl_serve-{VERSION}.dist-info/licenses/LICENSE" in built.wheel


def test_every_command_is_there(installed: Path, tmp_path: Path) -> None:
    command = installed / "qwen3vl-serve"
    assert run_installed(command, "--version", cwd=tmp_path) == f"qwen3vl-serve {VERSION}\n"
    assert "--workload" in run_installed(command, "bench", "--help", cwd=tmp_path)
    assert "L4" in run_installed(command, "plan", "demo", "--gpu", "L4", cwd=tmp_path)


def test_the_installed_server_answers_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = "import server, multimodal; print(server.__file__, multimodal.__file__)"
    found = run_installed(installed / "python", "-c", where, cwd=tmp_path).split()
    assert all(Path(path).is_relative_to(installed.parent) for path in found)
    with InstalledServer(installed, tmp_path) as server:
        assert server.http.get("/version").json()["version"] == VERSION
        assert server.http.get("/openapi.json").json()["info"]["version"] == VERSION
        implementation = server.http.get("/health").json()["implementation"]
        assert implementation.startswith("model_executor.qwen3_vl.")
        picture = {"type": "image_url", "image_url": {"url": drawing()}}
        question = {"type": "text", "text": "How many stars are there?"}
        answer = server.ask([picture, question], model="demo")
        assert answer.choices[0].message.content
        assert answer.usage.prompt_tokens_details.image_tokens > 0


class InstalledServer(ServerProcess):
    """`qwen3vl-serve serve demo` of an environment, started in a folder that holds nothing."""

    address = RealServer.address
    ready_path = RealServer.ready_path

    def __init__(self, installed: Path, folder: Path) -> None:
        start = ("env", "-u", "PYTHONPATH", "-C", str(folder), str(installed / "qwen3vl-serve"))
        options = ("--port", "0", "--kv-cache-bytes", str(256 * 1024**2))
        host = ("--host-dir", str(folder / "host"))
        super().__init__([*start, "serve", "demo", *options, *host], folder / "log")


def project_files() -> list[str]:
    """What git tracks, and what it would with `git add`; not what is deleted."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def extra_paths() -> list[str]:
    """Of PYTHONPATH: where packages are, not where this project is."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return [path for path in paths if not Path(path, "server").exists()]


def build(tree: Path, folder: Path, *options: str) -> None:
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder))
    run(*command, *options, str(tree), cwd=folder)


def find_version(tree: Path, **variables: str) -> str:
    return run(sys.executable, "-m", "setuptools_scm", cwd=tree, **variables).strip()


def read_sdist(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in members}


def read_wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def drawing() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 96), "navy").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def run_installed(*command: object, cwd: Path | None = None) -> str:
    return run("env", "-u", "PYTHONPATH", *(str(part) for part in command), cwd=cwd)


def run(*command: str, cwd: Path | None, **variables: str) -> str:
    """Its standard output. The versions of a release that is being made stay out of it."""
    ours = {n: v for n, v in os.environ.items() if not n.startswith(("SETUPTOOLS_SCM", "GIT_"))}
    done = subprocess.run(
        command, cwd=cwd, env={**ours, **variables}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout
