"""Stock's side of `benchmarks.preprocess`: python -m benchmarks.stock_preparation CHECKPOINT.

Runs where nothing of this project is installed: imports the standard library, stock vLLM and
`benchmarks.preparation`.
"""

import asyncio
import json
import sys

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.renderers import renderer_from_config
from vllm.renderers.online_renderer import OnlineRenderer

from benchmarks.preparation import Prepare, answer


def preparation(checkpoint: str) -> Prepare:
    """What `vllm serve` does between a request's bytes and its engine, caches included."""
    config = AsyncEngineArgs(model=checkpoint, max_model_len=32768, enforce_eager=True)
    engine_config = config.create_engine_config()
    renderer = OnlineRenderer(
        engine_config.model_config,
        renderer_from_config(engine_config),
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
    )

    async def prepare(body: bytes) -> object:
        rendered = await renderer.render_chat(ChatCompletionRequest(**json.loads(body)))
        assert isinstance(rendered, tuple), rendered  # else an error response
        return rendered

    return prepare


if __name__ == "__main__":
    asyncio.run(answer(preparation(sys.argv[1])))
