"""The CPU image: every command of the Dockerfile and of the compose file, run without Docker."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.dockerfile import DOCKERFILE, ROOT, read_stages
from tests.e2e.container import Container, Image
from tests.e2e.image_root import CAN_BUILD, ImageBuilder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # installs packages
    pytest.mark.skipif(not CAN_BUILD, reason="needs root, debootstrap, util-linux and iproute2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gigabytes, which pytest would keep for the next runs."""
    path = tmp_path_factory.mktemp("image")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def image(folder: Path) -> Image:
    builder = ImageBuilder(folder)
    builder.build("cpu-packages")
    root, environment, directory = builder.build("cpu")
    return Image(root, read_stages(DOCKERFILE.read_text())["cpu"], environment, directory)


@pytest.fixture(scope="module")
def container(image: Image, folder: Path) -> Iterator[Container]:
    service = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["serve"]
    volumes = {"cache": folder / "cache"}
    with Container(image, service, volumes, folder / "log") as container:
        container.wait_until_healthy()
        yield container
        assert container.stop() == 0
        assert "Traceback" not in container.log


def ask(container: Container, *arguments: str) -> str:
    done = container.run(["python", "demo/ask.py", *arguments])
    assert done.returncode == 0, done.stderr + container.log[-4000:]
    return done.stdout


def test_it_answers_as_the_readme_says(container: Container) -> None:
    picture = ("demo/examples/shapes.png", "How many stars are there?", "--no-thinking")
    assert ask(container, *picture).startswith("3\n")
    video = ("demo/examples/shapes.mp4", "When does the purple star appear?")
    assert "\nAt 4.5 seconds.\n" in ask(container, *video)


def test_it_is_nobody_who_can_change_the_image(container: Container) -> None:
    assert container.run(["id", "-u"]).stdout == "10001\n"
    refused = container.run(["touch", "/var/tmp/x"])  # everybody's folder
    assert "Read-only file system" in refused.stderr
    assert container.run(["touch", "/tmp/x", "/dev/shm/x", "/cache/x"]).stderr == ""
    capabilities = container.run(["grep", "CapEff", "/proc/self/status"]).stdout
    assert capabilities.split()[1].strip("0") == ""


def test_pictures_are_kept_on_the_volume(container: Container, folder: Path) -> None:
    ask(container, "demo/examples/shapes.png", "How many circles are there?", "--no-thinking")
    assert list((folder / "cache" / "vision").rglob("*.vision"))
