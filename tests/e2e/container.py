"""A container without Docker: a service of a compose file, in namespaces, on its image's root."""

import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from tests.dockerfile import Stage
from tests.e2e.real_server import wait_until

_START_TIMEOUT_S = 400
_STOP_TIMEOUT_S = 120
_NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts")
_SYSTEM = (("proc", "proc"), ("sysfs -o ro", "sys"), ("tmpfs", "dev"))
_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}  # minor numbers, major 1


@dataclass(frozen=True, slots=True)
class Image:
    """Attributes:
    root: its file system.
    directory: where its commands start.
    """

    root: Path
    stage: Stage
    environment: Mapping[str, str]
    directory: str


class Container:
    """Runs a service as Docker Compose would, as far as that can be: its user, command, variables,
    volumes, tmpfs, shared memory, read-only root, no capabilities, and a network of its own.

    Not Docker's: seccomp, cgroups, `init`. A context manager that leaves no process behind.

    Args:
        service: of the compose file.
        volumes: folders for its named volumes, which start as copies of what the image has there.
    """

    def __init__(
        self, image: Image, service: Mapping[str, Any], volumes: Mapping[str, Path], log: Path
    ) -> None:
        self._image, self._service, self._volumes, self._log = image, service, volumes, log

    def __enter__(self) -> Self:
        entrypoint = self._image.stage.last("ENTRYPOINT").words
        command = self._service.get("command") or self._image.stage.last("CMD").words
        inner = shlex.join(["exec", *self._as_user([*entrypoint, *command])])
        script = "\n".join(["set -e", *self._preparations(), inner])
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                ["unshare", *_NAMESPACES, "--fork", "--kill-child", "sh", "-c", script],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()  # and its child, with all of the PID namespace
        self._popen.wait(_STOP_TIMEOUT_S)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_healthy(self) -> None:
        """As the image's health check has it."""

        def is_healthy() -> bool:
            assert self._popen.poll() is None, self.log[-4000:]
            return self.run(self._image.stage.health_command).returncode == 0

        wait_until(is_healthy, _START_TIMEOUT_S)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec` does."""
        flags = [name for name in _NAMESPACES if name != "--uts"]
        enter = ["nsenter", "--target", str(self._first.pid), *flags]
        return subprocess.run(
            [*enter, *self._as_user(command)], capture_output=True, text=True, timeout=300
        )

    def stop(self) -> int:
        """By the image's signal; the exit status."""
        self._first.send_signal(signal.Signals[self._image.stage.last("STOPSIGNAL").argument])
        return self._popen.wait(_STOP_TIMEOUT_S)

    @property
    def _first(self) -> psutil.Process:
        """The process whose number is 1 inside."""
        wait_until(lambda: bool(psutil.Process(self._popen.pid).children()))
        return psutil.Process(self._popen.pid).children()[0]

    def _as_user(self, command: Sequence[str]) -> list[str]:
        user = self._image.stage.user
        limits = [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all"]
        assert self._service["cap_drop"] == ["ALL"]
        limits.append("--bounding-set=-all")
        if "no-new-privileges:true" in self._service["security_opt"]:
            limits.append("--no-new-privs")
        variables = {**self._image.environment, **self._service["environment"]}
        given = [f"{name}={value}" for name, value in variables.items()]
        start = ["env", "-i", "-C", self._image.directory, *given]
        return ["chroot", str(self._image.root), "setpriv", *limits, *start, *command]

    def _preparations(self) -> list[str]:
        """Shell commands, in the new namespaces, before the root is left for the image's."""
        root = self._image.root
        commands = ["mount --make-rprivate /", f"mount --bind {root} {root}"]
        for volume in self._service["volumes"]:
            name, target = volume.split(":")[:2]
            if not self._volumes[name].exists():
                commands.append(f"cp -a {root}{target} {self._volumes[name]}")
            commands.append(f"mount --bind {self._volumes[name]} {root}{target}")
        for mount in self._service["tmpfs"]:
            target, _, options = mount.partition(":")
            commands.append(_mount_tmpfs(f"{root}{target}", f"noexec,{options}"))
        if self._service["read_only"]:
            commands.append(f"mount -o remount,bind,ro {root}")
        commands += [f"mount -t {kind} none {root}/{place}" for kind, place in _SYSTEM]
        for name, minor in _DEVICES.items():
            commands.append(f"mknod -m 666 {root}/dev/{name} c 1 {minor}")
        commands += [f"ln -s /proc/self/fd {root}/dev/fd", f"mkdir {root}/dev/shm"]
        size = self._service["shm_size"].removesuffix("b")
        commands.append(_mount_tmpfs(f"{root}/dev/shm", f"noexec,mode=1777,size={size}"))
        return [*commands, "ip link set lo up"]


def _mount_tmpfs(target: str, options: str) -> str:
    return f"mount -t tmpfs -o nosuid,nodev,{options} tmpfs {target}"
