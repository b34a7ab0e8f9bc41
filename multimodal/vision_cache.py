"""Where the vision cache keeps what it has seen, as told to every process of a server."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from multimodal.vision_tier import Tier
from multimodal.vision_tiers import VisionTiers


@dataclass(frozen=True, slots=True)
class VisionCacheConfig:
    """Plain values, so that it can be handed from process to process.

    Attributes:
        namespace: hex digits for all that an embedding depends on besides the item itself.
        handover_dir: where patches are put that the engine asks for.
        has_encoder: whether the engine has the vision tower. If not, another process encodes, and
            puts embeddings into a tier that both have.
        host_dir, disk_dir: the tiers' directories; None for no such tier.
        host_bytes, disk_bytes: their budgets.
    """

    namespace: str
    handover_dir: str
    host_dir: str | None = None
    host_bytes: int = 0
    disk_dir: str | None = None
    disk_bytes: int = 0
    has_encoder: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def open_tiers(self) -> VisionTiers:
        """Not started: good for asking what there is."""
        tiers = []
        if self.host_dir is not None:
            directory = Path(self.host_dir)
            tiers.append(Tier("host", directory, self.namespace, self.host_bytes, fsync=False))
        if self.disk_dir is not None:
            directory = Path(self.disk_dir)
            tiers.append(Tier("disk", directory, self.namespace, self.disk_bytes, fsync=True))
        return VisionTiers(tiers)


@cache
def running_tiers(config: VisionCacheConfig) -> VisionTiers:
    """The tiers of this process, which loads from them and stores in them."""
    tiers = config.open_tiers()
    tiers.start()
    return tiers
