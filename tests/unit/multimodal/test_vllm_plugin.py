"""The plugin registers our classes, refuses other vLLM releases and takes its package name back."""

import subprocess
import sys

import pytest

from multimodal.vllm_plugin import ARCHITECTURES, check_vllm_version, register


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu", "0.33.2"])
def test_supported_versions_pass(version: str) -> None:
    check_vllm_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.34.0", "1.0.0"])
def test_other_versions_are_refused_by_name(version: str) -> None:
    with pytest.raises(RuntimeError, match=version.replace(".", r"\.")):
        check_vllm_version(version)


def test_both_architectures_are_ours_after_registering_twice() -> None:
    from vllm import ModelRegistry

    register()
    register()
    for name, target in ARCHITECTURES.items():
        entry = ModelRegistry.models[name]
        assert f"{entry.module_name}:{entry.class_name}" == target


def test_our_package_can_be_imported_after_vllm_took_its_name() -> None:
    """In a process of its own, as vLLM loads plugins: after `vllm.config` is imported."""
    code = (
        "import sys, vllm.config\n"
        "assert sys.modules['model_executor'].__name__ != 'model_executor'\n"
        "from vllm.plugins import load_general_plugins\n"
        "load_general_plugins()\n"
        "import vllm.config.model\n"
        "vllm.config.model.me_models.ModelRegistry\n"  # the other lazy loader
        "import model_executor.qwen3_vl\n"
        "print(model_executor.qwen3_vl.Qwen3VLForConditionalGeneration.__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("model_executor.qwen3_vl.model"), done.stderr[-2000:]
