"""Sizes of the published models, layouts that are refused, and the arithmetic of a plan."""

from dataclasses import replace
from typing import Any

import pytest

from model_executor.sizing.activations import expert_bytes, vision_bytes
from model_executor.sizing.device import GIB, Device, find_gpu
from model_executor.sizing.estimate import EngineShape, estimate
from model_executor.sizing.kv_cache import (
    kv_bytes_per_token,
    requests_that_fit,
    tokens_that_fit,
)
from model_executor.sizing.launch import Launch
from model_executor.sizing.model_shape import (
    ModelShape,
    UnknownModel,
    model_shape,
    read_model_shape,
)
from model_executor.sizing.parallel_layout import (
    ParallelLayout,
    layout_faults,
    stage_layers,
)
from model_executor.sizing.published import published_config
from model_executor.sizing.quantization import read_quantization
from model_executor.sizing.recommend import Demand, candidate_layouts, recommend
from model_executor.sizing.vision_cache import ENTRY_OVERHEAD_BYTES, entry_bytes
from model_executor.sizing.weights import num_parameters, stage_weights
from model_executor.sizing.workload import Workload, request_tokens
from multimodal.preprocessor_config import PreprocessorConfig
from multimodal.vision_entry import OVERHEAD_BYTES

ENGINE = EngineShape(
    max_model_len=8192, max_num_seqs=16, max_num_batched_tokens=8192, max_item_tokens=16384
)
H100 = Device("H100", int(79.1 * GIB), 0.92)
L4 = Device("L4", 22 * GIB, 0.92)


def published(size: str, suffix: str = "") -> ModelShape:
    return read_model_shape(f"Qwen/Qwen3-VL-{size}-Instruct{suffix}")


@pytest.mark.parametrize(
    ("size", "billions"),
    [
        ("2B", 2.13),
        ("4B", 4.44),
        ("8B", 8.77),
        ("32B", 33.4),
        ("30B-A3B", 31.1),
        ("235B-A22B", 236),
    ],
)
def test_published_models_have_their_published_size(size: str, billions: float) -> None:
    assert num_parameters(published(size)) / 1e9 == pytest.approx(billions, rel=3e-3)


def test_one_device_holds_every_parameter_and_the_summed_patch_kernel() -> None:
    model = published("8B")
    kernel = 1152 * 3 * 16 * 16
    assert stage_weights(model, ParallelLayout()).total == 2 * (num_parameters(model) + kernel)


def test_fp8_halves_the_linear_layers_and_leaves_the_rest() -> None:
    plain, fp8 = (
        stage_weights(published("8B", suffix), ParallelLayout()) for suffix in ("", "-FP8")
    )
    assert (fp8.vision, fp8.vocabulary) == (plain.vision, plain.vocabulary)
    # a scale of 4 bytes for 128 * 128 weights, of which there were 2 bytes each
    assert fp8.layers / plain.layers == pytest.approx(0.5 + 2 / 128**2, rel=1e-3)


def test_an_unknown_quantization_is_refused_by_name() -> None:
    config = published_config("2B") | {"quantization_config": {"quant_method": "bitsandbytes"}}
    with pytest.raises(UnknownModel, match="'bitsandbytes'"):
        model_shape("local", config)


@pytest.mark.parametrize(
    ("config", "num_bytes"),
    [
        ({"quant_method": "fp8"}, 256 * 512 + 4),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 256 * 256 + 256 * 4 * 2 + 512),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"0": {"weights": {"num_bits": 8, "strategy": "channel"}}},
            },
            256 * 512 + 256 * 4,
        ),
    ],
)
def test_bytes_of_a_quantised_matrix(config: dict[str, Any], num_bytes: int) -> None:
    quantization = read_quantization(config)
    assert quantization is not None
    assert quantization.num_bytes(256, 512) == num_bytes


def test_layers_left_over_go_to_the_middle_stages() -> None:
    assert [len(layers) for layers in stage_layers(94, 4)] == [23, 24, 24, 23]
    assert stage_layers(5, 2) == [range(3), range(3, 5)]


def test_fp8_experts_that_no_eight_devices_can_slice_are_kept_whole() -> None:
    model = published("235B-A22B", "-FP8")
    assert layout_faults(model, ParallelLayout(8)) == [
        "expert width 1536 / 8 devices = 192 is no multiple of the quantisation's block of 128"
    ]
    assert layout_faults(model, ParallelLayout(8, enable_expert_parallel=True)) == []
    assert layout_faults(published("235B-A22B"), ParallelLayout(8)) == []


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        (ParallelLayout(3), "16 attention heads are no multiple of TP 3"),
        (ParallelLayout(32), "16 attention heads are no multiple of TP 32"),
        (ParallelLayout(1, 14), "the first pipeline stage has 2 layers, DeepStack feeds 3"),
        (ParallelLayout(1, 29), "28 layers cannot make 29 pipeline stages"),
    ],
)
def test_layouts_that_vllm_refuses_are_named(layout: ParallelLayout, fault: str) -> None:
    assert fault in layout_faults(published("2B"), layout)


def test_key_value_heads_repeat_where_ranks_outnumber_them() -> None:
    model = published("30B-A3B")
    one = 2 * 48 * 128 * 2
    assert [kv_bytes_per_token(model, ParallelLayout(tp)) for tp in (1, 4, 8)] == [
        4 * one,
        one,
        one,
    ]
    assert kv_bytes_per_token(model, ParallelLayout(), "fp8") == 2 * one
    assert kv_bytes_per_token(model, ParallelLayout(1, 2)) == 2 * one


def test_tokens_and_requests_are_counted_in_whole_blocks() -> None:
    assert tokens_that_fit(1000, bytes_per_token=10, block_tokens=16) == 5 * 16
    assert requests_that_fit(160, request_tokens=17, block_tokens=16) == 5


def test_a_request_is_counted_as_the_server_counts_it() -> None:
    workload = Workload(prompt_tokens=100, images_per_request=3, image_size=(1920, 1080))
    tokens = request_tokens(workload, PreprocessorConfig())
    assert tokens.image == 60 * 34
    assert tokens.total == 100 + 3 * (60 * 34 + 2) + 1024


def test_a_video_brings_timestamps_and_markers() -> None:
    workload = Workload(images_per_request=0, image_size=(640, 480), video_seconds=5.5)
    tokens = request_tokens(workload, PreprocessorConfig())
    # 11 frames at 2 per second, the last one twice: 6 temporal patches of 20 x 15 tokens;
    # `<0.3 seconds>` takes 6 tokens, and each patch and the whole have two markers
    assert tokens.visual == 6 * 300
    assert tokens.video == 6 * 300 + 6 * 6 + 2 * 7


def test_a_cached_picture_is_as_large_as_its_file() -> None:
    assert ENTRY_OVERHEAD_BYTES == OVERHEAD_BYTES
    assert entry_bytes(published("8B"), 1000) == 1000 * 4096 * 4 * 2 + OVERHEAD_BYTES


def test_a_split_vision_tower_has_narrower_activations() -> None:
    model = published("8B")
    whole = vision_bytes(model, ParallelLayout(4, mm_encoder_tp_mode="data"), 4096, is_cpu=False)
    split = vision_bytes(model, ParallelLayout(4), 4096, is_cpu=False)
    assert whole == vision_bytes(model, ParallelLayout(), 4096, is_cpu=False)
    assert split < whole / 2


def test_experts_of_replicas_see_the_tokens_of_all() -> None:
    model = published("30B-A3B")
    one = expert_bytes(model, ParallelLayout(enable_expert_parallel=True), 1024)
    many = ParallelLayout(data_parallel_size=4, enable_expert_parallel=True)
    assert expert_bytes(model, many, 1024) > 4 * one


def test_the_parts_of_a_device_add_up_to_its_budget() -> None:
    stage = estimate(published("8B"), ParallelLayout(), H100, ENGINE, 4096).stage
    parts = (
        stage.weights.total,
        stage.buffers,
        stage.activations.peak,
        stage.vision_cache,
        stage.overhead,
        stage.kv_cache,
    )
    assert sum(parts) == H100.budget_bytes
    assert stage.packed == 0


def test_the_fullest_stage_decides() -> None:
    layout = ParallelLayout(1, 2)
    found = estimate(published("8B"), layout, L4, ENGINE, 4096)
    alone = estimate(published("8B"), ParallelLayout(), L4, ENGINE, 4096)
    assert found.fits and not alone.fits
    # the first stage has the tower's activations and the cache
    assert found.stage.vision_cache > 0


def test_small_models_become_replicas() -> None:
    layout = best_layout(published("8B"), H100, 8, Demand(64, 4096))
    assert layout == ParallelLayout(data_parallel_size=8)


def test_tensor_parallelism_is_the_smallest_that_holds_the_requests() -> None:
    model = published("32B")
    assert best_layout(model, H100, 8, Demand(8, 8192)).tensor_parallel_size == 1
    assert best_layout(model, H100, 8, Demand(64, 8192)).tensor_parallel_size == 2
    layout = best_layout(model, H100, 8, Demand(48, 32768))
    assert layout.tensor_parallel_size == 4
    assert layout.mm_encoder_tp_mode == "data"


def best_layout(model: ModelShape, device: Device, count: int, demand: Demand) -> ParallelLayout:
    best = recommend(model, device, count, ENGINE, demand).best
    assert best is not None
    assert best.requests >= demand.concurrency
    return best.layout


def test_moe_models_get_whole_experts() -> None:
    layout = best_layout(published("235B-A22B", "-FP8"), H100, 8, Demand(64, 8192))
    assert layout.enable_expert_parallel
    assert layout.num_expert_shards == 8


def test_what_does_not_fit_says_how_many_it_needs() -> None:
    found = recommend(published("235B-A22B"), H100, 4, ENGINE, Demand(4, 8192))
    assert found.best is None
    assert found.devices_needed == 8


def test_fewer_requests_than_wanted_are_better_than_none() -> None:
    found = recommend(published("8B"), L4, 2, ENGINE, Demand(64, 8192))
    assert found.best is not None
    assert 0 < found.best.requests < 64
    assert found.devices_needed is not None and found.devices_needed > 2


def test_dense_models_are_never_offered_expert_parallelism() -> None:
    assert not any(
        layout.enable_expert_parallel for layout in candidate_layouts(published("8B"), 8)
    )


def launch(device: Device = H100, engine: EngineShape = ENGINE) -> Launch:
    layout = ParallelLayout(2, 1, 4, enable_expert_parallel=True, mm_encoder_tp_mode="data")
    found = estimate(published("30B-A3B"), layout, device, engine, 4096)
    return Launch("M", "auto", device, engine, found)


def test_both_commands_say_the_same() -> None:
    ours, stock = launch().serve_command(), launch().vllm_command()
    assert ours[:3] == ["qwen3vl-serve", "serve", "M"]
    assert " ".join(ours[3:]).replace(" true", "") == " ".join(stock[3:])
    for flag in ("--tensor-parallel-size", "--data-parallel-size", "--mm-encoder-tp-mode"):
        assert flag in stock


def test_a_budget_of_the_vision_cache_is_ours_alone() -> None:
    with_budget = launch(engine=replace(ENGINE, device_bytes=GIB))
    assert "--device-bytes" in with_budget.serve_command()
    assert "--device-bytes" not in with_budget.vllm_command()


def test_on_a_cpu_the_kv_cache_is_given_in_bytes() -> None:
    on_cpu = launch(Device("CPU", 256 * GIB, 0.9))
    size = str(on_cpu.estimate.stage.kv_cache)
    assert on_cpu.serve_command()[-2:] == ["--kv-cache-bytes", size]
    assert on_cpu.vllm_command()[-2:] == ["--kv-cache-memory-bytes", size]
    assert "--gpu-memory-utilization" not in on_cpu.serve_command()


def test_names_of_devices_are_forgiving() -> None:
    assert find_gpu("h100") == "H100"
    assert find_gpu("rtx 4090") == "RTX-4090"
    assert find_gpu("A100-80GB") == "A100-80G"
    assert find_gpu("abacus") is None
