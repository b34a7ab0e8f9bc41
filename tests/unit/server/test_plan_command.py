"""`qwen3vl-serve plan`: flags in, a plan out, exit status and all."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.cli import main
from server.settings import iterate_fields

FP8_235B = "Qwen/Qwen3-VL-235B-A22B-Instruct-FP8"
# Settings that plans make use of, and that may be younger than this command.


def plan(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert main(["plan", *flags, "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_a_published_model_needs_no_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("multimodal.checkpoint_files.hf_hub_download", refuse)
    found = plan(capsys, FP8_235B, "--gpu", "H100", "--count", "8", "--images-per-request", "4")
    assert found["layout"]["enable_expert_parallel"] is True
    assert found["quantization"] == "fp8"
    assert found["request_tokens"]["images"] == 4 * (1024 + 2)


def test_the_text_says_what_the_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("Qwen/Qwen3-VL-8B-Instruct", "--gpu", "L4", "--count", "2")
    found = plan(capsys, *flags)
    assert main(["plan", *flags]) == 0
    text = capsys.readouterr().out
    assert found["commands"]["qwen3vl-serve"] in text
    assert found["commands"]["vllm"] in text
    assert f"{found['per_device']['kv_tokens']} tokens" in text
    assert f"{found['requests']} fit" in text


def test_every_flag_that_is_printed_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(
        capsys,
        FP8_235B,
        *("--count", "8", "--concurrency", "400", "--dtype", "bfloat16"),
        *("--kv-cache-dtype", "fp8", "--device-bytes", str(2**30)),
    )
    settings = {name.split(".")[1] for name, _ in iterate_fields()}
    parts = found["commands"]["qwen3vl-serve"].split()
    flags = [part.removeprefix("--").replace("-", "_") for part in parts if part.startswith("--")]
    assert set(flags) <= settings
    assert {"enable_expert_parallel", "max_model_len", "device_bytes"} <= set(flags)


def test_a_folder_is_read_from_its_files(
    capsys: pytest.CaptureFixture[str], instruct_checkpoint: Path
) -> None:
    found = plan(capsys, str(instruct_checkpoint))
    assert found["num_parameters"] < 5_000_000
    assert found["dtype"] == "bfloat16"  # as vLLM runs a float32 checkpoint


def test_the_embedded_model_keeps_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "demo", "--gpu", "CPU", "--gpu-memory-gib", "4")
    assert "serve demo" in found["commands"]["qwen3vl-serve"]
    assert found["per_device"]["packed"] > 0


def test_what_does_not_fit_has_an_exit_status_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "Qwen/Qwen3-VL-32B-Instruct", "--gpu", "L4"]) == 1
    assert "does not fit: needs 8 x L4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["no/such-model"], "no config.json"),
        (["Qwen/Qwen3-VL-2B-Instruct", "--gpu", "abacus"], "give --gpu-memory-gib"),
        (["Qwen/Qwen3-VL-2B-Instruct", "--max-model-len", "512"], "exceeds the context of 512"),
        (["Qwen/Qwen3-VL-2B-Instruct", "--image-size", "9000x9000"], "max_source_pixels"),
    ],
)
def test_what_cannot_be_planned_is_said(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--image-size=0x5", "--count=0", "--gpu-memory-utilization=2"])
def test_flags_out_of_bounds_are_refused(flag: str) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "Qwen/Qwen3-VL-2B-Instruct", flag])


def test_neither_torch_nor_vllm_is_loaded() -> None:
    code = (
        "import sys; from server.cli import main; main(['plan', 'Qwen/Qwen3-VL-2B-Instruct']);"
        "assert not {'torch', 'transformers', 'vllm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
