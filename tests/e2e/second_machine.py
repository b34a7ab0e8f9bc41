"""A second machine: a network namespace with an address of its own, behind a virtual cable."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

HAS_NAMESPACES = shutil.which("ip") is not None and os.geteuid() == 0


@dataclass(frozen=True)
class Machine:
    """Attributes:
    address, interface: its own, and those of this machine on the same cable.
    command: what starts a process on it.
    """

    address: str
    interface: str
    our_address: str
    our_interface: str
    command: tuple[str, ...]

    def cut_cable(self) -> None:
        """As if it had lost power: nobody is told."""
        _ip("link", "set", self.our_interface, "down")


@contextmanager
def second_machine() -> Iterator[Machine]:
    """Raises: CalledProcessError where no namespace can be made."""
    name = f"qwen3vl{os.getpid()}"
    network = f"10.231.{os.getpid() % 256}"
    ours, its = f"qa{os.getpid()}", f"qb{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", ours, "type", "veth", "peer", "name", its, "netns", name)
        _ip("address", "add", f"{network}.1/30", "dev", ours)
        _ip("link", "set", ours, "up")
        _ip("-n", name, "address", "add", f"{network}.2/30", "dev", its)
        for device in (its, "lo"):
            _ip("-n", name, "link", "set", device, "up")
        command = ("ip", "netns", "exec", name)
        yield Machine(f"{network}.2", its, f"{network}.1", ours, command)
    finally:
        _ip("netns", "delete", name)
        # The cable goes with it, but not while the kernel still sends what the other end never got.
        subprocess.run(["ip", "link", "delete", ours], capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
