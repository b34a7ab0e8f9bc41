"""What a worker really allocates; mixed into vLLM's worker class as `worker_extension_cls`."""

import functools
from typing import Any

import psutil
import torch

from model_executor.qwen3_vl.model import Qwen3VLForConditionalGeneration

_FOUND: dict[str, int] = {}


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _watched(init: Any) -> Any:
    """Parameters are counted when the model is built: later some give their memory to kernels."""

    @functools.wraps(init)  # vLLM goes by the names of its parameters
    def build(self: Any, **kwargs: Any) -> None:
        _FOUND["resident_before"] = _resident_bytes()
        init(self, **kwargs)
        sizes = {name: p.numel() * p.element_size() for name, p in self.named_parameters()}
        _FOUND["weights"] = sum(sizes.values())
        _FOUND["vision"] = sum(n for name, n in sizes.items() if name.startswith("visual."))
        _FOUND["experts"] = sum(n for name, n in sizes.items() if ".experts." in name)

    return build


_init: Any = Qwen3VLForConditionalGeneration.__init__
Qwen3VLForConditionalGeneration.__init__ = _watched(_init)  # type: ignore[method-assign]


class PlanProbe:
    model_runner: Any

    def measured(self) -> dict[str, int]:
        runner = self.model_runner
        model = runner.get_model()
        layers = model.language_model.model.layers
        rotary = next(layer.self_attn.rotary_emb for layer in layers if hasattr(layer, "self_attn"))
        kept = (rotary.cos_sin_cache, model.deepstack.rows, runner.inputs_embeds.gpu)
        return _FOUND | {
            "buffers": sum(tensor.nbytes for tensor in kept),
            "resident": _resident_bytes(),
            "kv_cache": sum(tensor.nbytes for tensor in runner.kv_caches),
        }

    def vision_peak(self, grid_h: int, grid_w: int, is_video: bool) -> int:
        """Bytes that the vision tower holds at most, beside its input."""
        model = self.model_runner.get_model()
        embed = model.visual.patch_embed
        width = embed.video_weight.shape[1] if is_video else embed.image_weight.shape[1]
        patches = torch.zeros(grid_h * grid_w, width, dtype=torch.uint8)
        return _peak(lambda: model.visual(patches, [(grid_h, grid_w)]))

    def language_peak(self, num_tokens: int) -> int:
        """Bytes that a step without attention holds at most."""
        return _peak(lambda: self.model_runner._dummy_run(num_tokens))


@torch.inference_mode()
def _peak(work: Any) -> int:
    work()  # what is made once and kept is there
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.nbytes()]
    events.sort(key=lambda event: event.start_ns())
    held = peak = 0
    for event in events:
        held += event.nbytes()
        peak = max(peak, held)
    return peak
