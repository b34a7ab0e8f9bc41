"""vLLM takes the name `model_executor` for itself until the plugin is registered, so tests here
import the package in fixtures."""

import pytest

from multimodal.vllm_plugin import register


@pytest.fixture(scope="session", autouse=True)
def plugin() -> None:
    register()
