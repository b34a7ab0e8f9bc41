"""The devices that a plan may be made for, and what is assumed of each process on one."""

from dataclasses import dataclass

GIB = 1024**3

# GiB that torch reports as a device's total memory, rounded down: less than the number on the box.
GPU_MEMORY_GIB = {
    "A10G": 22.0,
    "A100-40G": 39.4,
    "A100-80G": 79.1,
    "B200": 178.3,
    "H100": 79.1,
    "H200": 139.7,
    "L4": 22.0,
    "L40S": 44.3,
    "MI300X": 191.6,
    "RTX-4090": 23.5,
    "RTX-A6000": 47.4,
    "RTX-PRO-6000": 94.9,
}
CPU = "CPU"

# Assumed, since the configuration does not tell: driver context, cuBLAS and attention workspaces
# of a process; the buffers of collectives; captured graphs.
_CONTEXT_BYTES = int(0.75 * GIB)
_COLLECTIVE_BYTES = int(0.5 * GIB)
_GRAPH_BYTES = int(0.75 * GIB)
# Measured: a worker's resident memory before it has a model (Python, torch, vLLM).
_CPU_PROCESS_BYTES = int(0.6 * GIB)


@dataclass(frozen=True, slots=True)
class Device:
    """Attributes:
    memory_bytes: what the device reports as its own.
    utilization: share of it that the engine may take.
    """

    name: str
    memory_bytes: int
    utilization: float

    @property
    def is_cpu(self) -> bool:
        return self.name == CPU

    @property
    def budget_bytes(self) -> int:
        return int(self.memory_bytes * self.utilization)

    @property
    def kv_block_tokens(self) -> int:
        """Tokens of a KV-cache block: vLLM's default on a CPU and on a GPU."""
        return 128 if self.is_cpu else 16

    @property
    def default_batched_tokens(self) -> int:
        """`max_num_batched_tokens` of vLLM's own server, by memory; a CPU's is this server's."""
        if self.is_cpu or self.memory_bytes < 70 * GIB or self.name.startswith("A100"):
            return 2048
        return 16384 if self.memory_bytes >= 160 * GIB else 8192

    def overhead_bytes(self, is_alone: bool) -> int:
        """What is there beside the model. Args: is_alone: no other process shares the model."""
        if self.is_cpu:
            return _CPU_PROCESS_BYTES
        return _CONTEXT_BYTES + _GRAPH_BYTES + (0 if is_alone else _COLLECTIVE_BYTES)


def find_gpu(name: str) -> str | None:
    """The table's spelling of a name; None if it is not there."""
    wanted = name.upper().replace("_", "-").replace(" ", "-")
    names = {known.upper(): known for known in (*GPU_MEMORY_GIB, CPU)}
    return names.get(wanted) or names.get(wanted.removesuffix("B"))
