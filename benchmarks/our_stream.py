"""Our side of `benchmarks.stream`: python -m benchmarks.our_stream CHECKPOINT."""

import sys
from tempfile import TemporaryDirectory
from typing import Any, cast

import uvloop
from prometheus_client import CollectorRegistry
from transformers import AutoTokenizer

from benchmarks.stream_engine import StepEngine
from benchmarks.stream_side import App, answer
from benchmarks.stream_work import MODEL_NAME
from multimodal.vision_cache import VisionCacheConfig
from server.app import create_app
from server.engine import ModelInfo
from server.lora_adapters import LoraAdapters
from server.prompt import PromptRenderer
from server.settings import Settings
from server.state import Backend, ServerState
from server.vllm_cache import VisionCache
from server.vllm_engine import RunningEngines, VllmEngine


class _NoMedia:
    """In the place of what loads images and videos, as no request has any."""

    async def load_patches(self) -> None:
        raise NotImplementedError


def make_app(checkpoint: str, engine: StepEngine, folder: TemporaryDirectory[str]) -> App:
    """The whole application, with `engine` where vLLM's `AsyncLLM` is otherwise."""
    info = ModelInfo(MODEL_NAME, max_model_len=32768, implementation="none")
    cache = VisionCache(VisionCacheConfig("benchmark", folder.name))
    state, unused = ServerState(Settings(), CollectorRegistry()), cast(Any, _NoMedia())
    running = RunningEngines(cast(Any, engine), info, processes=(), queues=())
    vllm_engine = VllmEngine(running, launch=cast(Any, None), cache=cache, clean_up=folder.cleanup)
    state.backend = Backend(
        engine=vllm_engine,
        renderer=PromptRenderer(checkpoint),
        pipeline=unused,
        fetcher=unused,
        grammars=unused,
        adapters=LoraAdapters(vllm_engine, state.settings.engine),
    )
    return create_app(state)


async def main(checkpoint: str) -> None:
    engine = StepEngine(AutoTokenizer.from_pretrained(checkpoint))
    app = make_app(checkpoint, engine, TemporaryDirectory())
    await answer(lambda work: (app, engine))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
