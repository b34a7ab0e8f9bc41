"""Our engine against transformers, logit by logit: the tools of `qwen3vl-serve check` and tests.

Both sides get the same expanded token ids and the same uint8 patches; each computes positions,
visual embeddings and logits by itself.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from multimodal.items import LoadedMedia, PlacedItem
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.vllm_plugin import LORA_TARGET_MODULES

_KV_CACHE_BYTES = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class ParityCase:
    """One prompt, expanded. `media` are its parts in prompt order, `items` the same, placed."""

    name: str
    token_ids: tuple[int, ...]
    items: tuple[PlacedItem, ...]
    media: tuple[LoadedMedia, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """What a model made of a case.

    Attributes:
        generated: token ids, greedy.
        logits: (num_positions, vocabulary) float32: every position from `first_position` to the
            last one that was fed to the model (the last generated token is not).
    """

    generated: tuple[int, ...]
    first_position: int
    logits: torch.Tensor


@dataclass(frozen=True, slots=True)
class Difference:
    """Ours against the reference over all positions that both have.

    `relative` is max over positions of |ours - reference| / |reference| (Euclidean norms).
    """

    relative: float
    max_abs: float
    mean_abs: float
    num_equal_tokens: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A folder in peft's format. `has_tower`: it changes the vision tower."""

    lora_int_id: int
    folder: str
    has_tower: bool = False


def difference(ours: Run, reference: Run) -> Difference:
    """Positions after the first differing generated token are left out: the inputs differ there."""
    pairs = list(zip(ours.generated, reference.generated, strict=True))
    num_equal = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    num_differing = max(len(pairs) - 1 - num_equal, 0)
    end = len(reference.logits) - num_differing
    expected = reference.logits[ours.first_position : end]
    actual = ours.logits[: len(expected)]
    error = actual - expected
    return Difference(
        relative=float((error.norm(dim=-1) / expected.norm(dim=-1)).max()),
        max_abs=float(error.abs().max()),
        mean_abs=float(error.abs().mean()),
        num_equal_tokens=num_equal,
        num_tokens=len(pairs),
    )


class Reference:
    """transformers' own Qwen3-VL, float32 on the CPU.

    Args:
        rope_parameters: instead of the checkpoint's.
    """

    def __init__(
        self,
        model: str,
        config: PreprocessorConfig,
        rope_parameters: dict[str, Any] | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoModelForImageTextToText

        model_config = AutoConfig.from_pretrained(model)
        if rope_parameters is not None:
            model_config.text_config.rope_parameters = rope_parameters
        self._model = AutoModelForImageTextToText.from_pretrained(
            model, config=model_config, dtype=torch.float32
        ).eval()
        self._config = config

    @torch.inference_mode()
    def run(self, case: ParityCase, num_tokens: int) -> Run:
        """Greedy tokens (the end of the text does not stop it) and the logits that led to them."""
        inputs = self._inputs(case)
        generated: list[int] = []
        output = self._model(**inputs, use_cache=True)
        logits = [output.logits[0]]
        while True:
            generated.append(int(logits[-1][-1].argmax()))
            if len(generated) == num_tokens:
                return Run(tuple(generated), 0, torch.cat(logits))
            position = len(case.token_ids) + len(generated) - 1
            delta = self._model.model.rope_deltas if case.items else 0
            output = self._model(
                input_ids=torch.tensor([generated[-1:]]),
                past_key_values=output.past_key_values,
                position_ids=torch.full((3, 1, 1), position) + delta,
                use_cache=True,
            )
            logits.append(output.logits[0])

    def _inputs(self, case: ParityCase) -> dict[str, torch.Tensor]:
        kinds = np.zeros(len(case.token_ids), dtype=np.int64)  # 0 text, 1 image, 2 video
        for placed in case.items:
            kind = 1 if placed.item.modality == "image" else 2
            kinds[placed.offset : placed.offset + placed.num_tokens] = kind
        inputs = {
            "input_ids": torch.tensor([case.token_ids]),
            "mm_token_type_ids": torch.from_numpy(kinds).unsqueeze(0),
        }
        images = [part for part in case.media if part.modality == "image"]
        videos = [part for part in case.media if part.modality == "video"]
        if images:
            inputs["pixel_values"] = self._pixel_values(images)
            inputs["image_grid_thw"] = _grid_thw(images)
        if videos:
            inputs["pixel_values_videos"] = self._pixel_values(videos)
            inputs["video_grid_thw"] = _grid_thw(videos)
        return inputs

    def _pixel_values(self, media: Sequence[LoadedMedia]) -> torch.Tensor:
        """Our uint8 (frame, row, column, RGB) patches -> floats (RGB, 2, row, column), flat."""
        size, num_frames = self._config.patch_size, self._config.temporal_patch_size
        mean = torch.tensor(self._config.image_mean).view(1, 3, 1, 1, 1)
        std = torch.tensor(self._config.image_std).view(1, 3, 1, 1, 1)
        items = [item for part in media for item in part.items]
        patches = torch.cat([item.patches for item in items if item.patches is not None])
        frames = patches.view(len(patches), -1, size, size, 3).permute(0, 4, 1, 2, 3)
        frames = frames.expand(-1, -1, num_frames, -1, -1)
        return ((frames.float() / 255 - mean) / std).flatten(1)


def _grid_thw(media: Sequence[LoadedMedia]) -> torch.Tensor:
    return torch.tensor(
        [[len(part.items), part.items[0].grid_h, part.items[0].grid_w] for part in media]
    )


class EngineUnderTest:
    """vLLM with our plugin in this process, every position's logits recorded.

    vLLM holds its process groups in globals: one at a time, closed before the next.

    Args:
        max_num_batched_tokens: tokens in one step; longer prompts are prefilled in chunks.
        hf_overrides: changes to the checkpoint's configuration.
        scheduler_cls: dotted name; None for vLLM's own.
        max_loras: adapters in one step.
    """

    def __init__(
        self,
        model: str,
        *,
        max_model_len: int,
        dtype: str = "float32",
        max_num_batched_tokens: int = 8192,
        enable_prefix_caching: bool = False,
        enforce_eager: bool = True,
        hf_overrides: Mapping[str, Any] = MappingProxyType({}),
        scheduler_cls: str | None = None,
        kv_cache_bytes: int = _KV_CACHE_BYTES,
        max_loras: int = 0,
    ) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process
        from vllm import LLM

        from multimodal.vllm_input import use_plain_keys

        self._llm = LLM(
            model,
            dtype=dtype,
            enforce_eager=enforce_eager,
            max_model_len=max_model_len,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=16,
            enable_prefix_caching=enable_prefix_caching,
            kv_cache_memory_bytes=kv_cache_bytes,
            mm_processor_cache_gb=0,
            block_size=32,
            scheduler_cls=scheduler_cls,
            scheduling_policy="priority",
            hf_overrides=dict(hf_overrides),
            seed=0,
            **_lora_options(max_loras),
        )
        if max_loras:
            use_plain_keys(self._llm.llm_engine.input_processor)
        self.step_sizes: list[int] = []  # tokens in each step of the last run
        executor = self._llm.llm_engine.engine_core.engine_core.model_executor
        self._runner = executor.driver_worker.worker.model_runner

    @property
    def model(self) -> Any:
        return self._runner.model

    @property
    def llm(self) -> Any:
        return self._llm

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()

    def run(
        self,
        cases: Sequence[ParityCase],
        num_tokens: int,
        adapters: Sequence[LoraAdapter | None] | None = None,
    ) -> list[Run]:
        """Greedy, all cases in one batch; the end of the text does not stop them.

        Args:
            adapters: one for each case, if the engine has adapters.
        """
        from vllm import SamplingParams

        from multimodal.vllm_input import engine_input

        sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        engine = self._llm.llm_engine
        names = [f"parity-{index}" for index in range(len(cases))]
        outputs: dict[str, Any] = {}
        used = [None] * len(cases) if adapters is None else adapters
        with self._record() as rows:
            for name, case, adapter in zip(names, cases, used, strict=True):
                lora_int_id = None if adapters is None else _tower_id(adapter)
                prompt = engine_input(case.token_ids, case.items, lora_int_id)
                engine.add_request(name, prompt, sampling, lora_request=_lora_request(adapter))
            while engine.has_unfinished_requests():
                outputs |= {output.request_id: output for output in engine.step()}
        return [
            Run(
                tuple(outputs[name].outputs[0].token_ids),
                *self._logits(_rows_of(name, rows), adapter),
            )
            for name, adapter in zip(names, used, strict=True)
        ]

    def _logits(
        self, rows: dict[int, torch.Tensor], adapter: LoraAdapter | None
    ) -> tuple[int, torch.Tensor]:
        first, last = min(rows), max(rows)
        hidden = torch.stack([rows[position] for position in range(first, last + 1)])
        if self._runner.lora_config:
            lora_request = _lora_request(adapter)
            ids = (adapter.lora_int_id if adapter else 0,) * len(hidden)
            self._runner._set_active_loras(ids, ids, {lora_request} if lora_request else set())
        return first, self.model.compute_logits(hidden).float()

    @contextmanager
    def _record(self) -> Iterator[dict[str, dict[int, torch.Tensor]]]:
        """Collect the backbone's output: request id -> position -> hidden state."""
        rows: dict[str, dict[int, torch.Tensor]] = {}
        self.step_sizes.clear()
        runner = self._runner
        scheduled: dict[str, int] = {}
        execute_model = runner.execute_model

        def execute(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            self.step_sizes.append(scheduler_output.total_num_scheduled_tokens)
            scheduled.clear()
            scheduled.update(scheduler_output.num_scheduled_tokens)
            return execute_model(scheduler_output, *args, **kwargs)

        def record(module: Any, args: Any, hidden_states: torch.Tensor) -> None:
            start = 0
            for index, request_id in enumerate(runner.input_batch.req_ids):
                done = int(runner.input_batch.num_computed_tokens_cpu[index])
                for i in range(scheduled[request_id]):
                    rows.setdefault(request_id, {})[done + i] = hidden_states[start + i].clone()
                start += scheduled[request_id]

        runner.execute_model = execute
        hook = self.model.register_forward_hook(record)
        try:
            yield rows
        finally:
            hook.remove()
            runner.execute_model = execute_model


def _lora_options(max_loras: int) -> dict[str, Any]:
    if not max_loras:
        return {}
    return {
        "enable_lora": True,
        "max_loras": max_loras,
        "lora_target_modules": list(LORA_TARGET_MODULES),
        "enable_tower_connector_lora": True,
    }


def _tower_id(adapter: LoraAdapter | None) -> int:
    return adapter.lora_int_id if adapter and adapter.has_tower else 0


def _lora_request(adapter: LoraAdapter | None) -> Any:
    from vllm.lora.request import LoRARequest

    if adapter is None:
        return None
    return LoRARequest(f"adapter-{adapter.lora_int_id}", adapter.lora_int_id, adapter.folder)


def _rows_of(name: str, rows: dict[str, dict[int, torch.Tensor]]) -> dict[int, torch.Tensor]:
    """vLLM appends a random part to the names of requests."""
    return next(found for key, found in rows.items() if key.rsplit("-", 1)[0] == name)
