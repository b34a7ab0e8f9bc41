"""How the processes of an engine on several nodes learn that another node is gone.

The first rank holds a connection to each rank on another node. Nothing is sent on it: its end is
the news, whether that process has ended or its machine has lost power. Whoever learns it ends. What
has started it does the rest, `server.vllm_follower` and, on node 0, the server; the engine core
between the two is ended as well, as it may wait for an answer of the lost node for five minutes.
"""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from threading import Thread
from typing import Any

from vllm.distributed.parallel_state import get_inner_dp_world_group

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 60.0
# A machine that is silent for 10 + 3 * 5 seconds has lost power or its network.
_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
}


def watch_nodes(parallel_config: Any) -> None:
    """Connect to the other nodes and watch them. Every rank calls it. Args: vLLM's config."""
    group = get_inner_dp_world_group()
    num_local = parallel_config.local_world_size
    if group.rank_in_group == 0:
        with closing(_listen(parallel_config.master_addr)) as listener:
            group.broadcast_object(listener.getsockname()[:2])
            peers = list(_accept(listener, group.world_size - num_local))
    else:
        address = group.broadcast_object()
        is_remote = group.rank_in_group >= num_local
        peers = [socket.create_connection(address, _CONNECT_TIMEOUT_S)] if is_remote else []
    for peer in peers:
        _keep_alive(peer)
        core_pid = os.getppid() if group.rank_in_group == 0 else None
        Thread(target=_end_with, args=(peer, core_pid), name="node-watch", daemon=True).start()


def _listen(host: str) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address[:2], family=family)
    listener.settimeout(_CONNECT_TIMEOUT_S)
    return listener


def _accept(listener: socket.socket, num_peers: int) -> Iterator[socket.socket]:
    for _ in range(num_peers):
        yield listener.accept()[0]


def _keep_alive(peer: socket.socket) -> None:
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        peer.setsockopt(socket.IPPROTO_TCP, option, value)


def _end_with(peer: socket.socket, core_pid: int | None) -> None:
    with suppress(OSError):
        peer.recv(1)
    logger.critical("another node of the engine is gone; ending this process")
    if core_pid is not None:
        with suppress(ProcessLookupError):
            os.kill(core_pid, signal.SIGKILL)
    os._exit(1)
