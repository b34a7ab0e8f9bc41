"""vLLM's router in front of replicas: `vllm-router`, keyed on the conversation."""

import re
from functools import cached_property
from pathlib import Path

from tests.e2e.real_server import RealServer, ServerProcess
from tests.e2e.scaling import free_port, python_path, router_command

# A replica that is gone fails a request often enough, within its retries, to be passed over by it.
_OPTIONS = ("--policy", "consistent_hash", "--cb-failure-threshold", "2")


class Router(ServerProcess):
    """Args: replicas: whose requests it takes."""

    address = re.compile(r"Starting server on (\S+)")
    ready_path = "/health"

    def __init__(self, replicas: list[RealServer], log_path: Path) -> None:
        urls = [replica.base_url for replica in replicas]
        ports = ("--port", str(free_port()), "--prometheus-port", str(free_port()))
        command = router_command("--worker-urls", *urls, *ports, *_OPTIONS)
        super().__init__(command, log_path, PYTHONPATH=python_path())

    @cached_property
    def base_url(self) -> str:
        found = self.address.search(self.log)
        assert found, self.log
        return f"http://{found[1]}"
