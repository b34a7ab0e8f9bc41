"""Methods added to vLLM's worker (`worker_extension_cls`), called through `collective_rpc`."""

import os
import socket
import time
from contextlib import suppress
from threading import Thread
from typing import Any

import psutil

_WATCH_INTERVAL_S = 1.0


class WorkerExtension:
    """Mixed into the worker class by vLLM."""

    model_runner: Any

    def end_with_server(self, host: str, pid: int) -> None:
        """End this process when the server's process is gone, however that came about.

        vLLM's engine notices an orderly end only. On another host there is nothing to watch.
        """
        if socket.gethostname() == host:
            server = psutil.Process(pid)
            Thread(target=_end_after, args=(server,), name="server-watch", daemon=True).start()

    def describe_model(self) -> str:
        """Module and name of the class that really runs, the proof that it is ours."""
        model_class = type(self.model_runner.get_model())
        return f"{model_class.__module__}.{model_class.__qualname__}"


def _end_after(server: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_WATCH_INTERVAL_S)
    os._exit(1)
