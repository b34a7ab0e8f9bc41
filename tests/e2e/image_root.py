"""The images of docker/Dockerfile, built without Docker: in Debian roots of debootstrap.

As root only. Debian bookworm and its Python 3.11 stand in for python:3.11-slim-bookworm.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.dockerfile import DOCKERFILE, ROOT, Instruction, fill_in, read_pairs, read_stages

_TOOLS = ("debootstrap", "unshare", "nsenter", "ip")
_NAMESPACES = ("unshare", "--mount", "--pid", "--net", "--fork", "true")
CAN_BUILD = (
    os.geteuid() == 0
    and all(map(shutil.which, _TOOLS))
    and subprocess.run(_NAMESPACES, capture_output=True).returncode == 0
)
_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Docker's
# How this machine reaches packages; Docker brings names' addresses into its containers as well.
_FROM_MACHINE = (
    "/etc/apt",
    "/usr/share/keyrings",
    "/etc/ssl/certs",
    "/etc/resolv.conf",
    "/etc/hosts",
)


def debian_root() -> Path:
    """A root folder like the base image's, made once for each user. Raises: CalledProcessError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qwen3vl-serve-tests"
    root = cache / _SUITE
    if not root.exists():
        cache.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=cache)) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(new)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (new / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        # as Docker's Debian images have it
        (new / "etc/dpkg/dpkg.cfg.d/docker-apt-speedup").write_text("force-unsafe-io\n")
        new.rename(root)
        new.parent.rmdir()
    return root


class ImageBuilder:
    """Builds stages into folders, each instruction as Docker would.

    Args:
        folder: for the roots of the stages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stages = read_stages(DOCKERFILE.read_text())
        self._pip_config = folder / "pip.conf"
        self._pip_config.write_text(_pip_config())

    def build(self, name: str) -> tuple[Path, dict[str, str], str]:
        """The root of a stage, its environment and its working directory."""
        root = self._folder / name
        stage = self._stages[name]
        subprocess.run(["cp", "-a", debian_root(), root], check=True)
        environment, arguments, directory = {"PATH": _PATH}, {}, "/"
        for step in stage.instructions:
            match step.name:
                case "ARG":
                    arguments |= read_pairs(step)
                case "ENV":
                    pairs = read_pairs(step)
                    environment |= {k: fill_in(v, environment) for k, v in pairs.items()}
                case "WORKDIR":
                    directory = step.argument
                    (root / directory[1:]).mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(step, root, directory)
                case "RUN":
                    self._run(step, root, {**environment, **arguments}, directory)
        return root, environment, directory

    def _copy(self, step: Instruction, root: Path, directory: str) -> None:
        source, target = step.words
        to = root / os.path.join(directory, target)[1:]
        if "from" in dict(step.flags):
            other = self._folder / dict(step.flags)["from"]
            # hard links: nothing changes in the other stage any more
            subprocess.run(["cp", "-al", other / source[1:], to], check=True)
        elif source == ".":
            for path in _build_context():
                (to / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, to / path)
        else:
            shutil.copy(ROOT / source, to)

    def _run(
        self, step: Instruction, root: Path, environment: Mapping[str, str], directory: str
    ) -> None:
        mounts = [f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc"]
        for options in step.options_of("mount"):
            source = self._pip_config if options["type"] == "secret" else _pip_cache()
            mounts.append(_bind(source, root, options["target"]))
        shown = [Path(name) for name in _FROM_MACHINE if Path(name).exists()] + _local_packages()
        mounts += [_bind(path, root, str(path)) for path in shown]
        inner = ["chroot", str(root), "env", "-i", "-C", directory]
        inner += [f"{name}={value}" for name, value in environment.items()]
        inner += ["/bin/sh", "-c", step.argument]
        script = " && ".join([*mounts, shlex.join(["exec", *inner])])
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, f"RUN {step.argument}\n{done.stdout[-4000:]}"


def _bind(source: Path, root: Path, target: str) -> str:
    """The command that shows a file or folder in a root, where it makes an empty one first."""
    place = root / target[1:]
    make = f"mkdir -p {place}" if source.is_dir() else f"touch {place}"
    return f"{make} && mount --bind {source} {place}"


def _pip_settings() -> dict[str, str]:
    """What pip on this machine is told by its files and by variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", lines, re.MULTILINE)
    return dict(found)


def _pip_config() -> str:
    rows = (f"{k} = {' '.join(v.split(chr(92) + 'n'))}\n" for k, v in _pip_settings().items())
    return "[global]\n" + "".join(rows)


def _pip_cache() -> Path:
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    path.mkdir(parents=True, exist_ok=True)
    return path


def _local_packages() -> list[Path]:
    """Folders of packages on this machine that pip is told of; of an index, with its files."""
    words = re.split(r"\s|\\n", " ".join(_pip_settings().values()))
    paths = {Path(word.removeprefix("file://")) for word in words if "/" in word}
    folders = {path.parent if path.name == "simple" else path for path in paths}
    return sorted(path for path in folders if path.is_absolute() and path.is_dir())


def _build_context() -> list[Path]:
    """The files that .dockerignore lets through, relative to the repository's root."""
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    rules = [_ignore_rule(line) for line in lines if line and not line.startswith("#")]

    def is_sent(path: str) -> bool:
        matching = [is_kept for pattern, is_kept in rules if pattern.match(path)]
        return matching[-1]

    tops = {line[1:].split("/")[0] for line in lines if line.startswith("!")}
    files = [
        path
        for top in tops
        for path in ((ROOT / top).rglob("*") if (ROOT / top).is_dir() else [ROOT / top])
        if path.is_file()
    ]
    names = [path.relative_to(ROOT) for path in files]
    return [name for name in names if is_sent(str(name))]


def _ignore_rule(line: str) -> tuple[re.Pattern[str], bool]:
    """What it matches, with all that is below; whether that is sent."""
    parts = re.escape(line.removeprefix("!").rstrip("/"))
    parts = parts.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return re.compile(f"{parts}(?:/|$)"), line.startswith("!")
