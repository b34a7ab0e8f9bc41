"""Stock's side of `benchmarks.stream`: python -m benchmarks.stock_stream CHECKPOINT.

Runs where nothing of this project is installed: imports the standard library, stock vLLM, what
that brings, and modules of `benchmarks` that do the same.
"""

import sys
from typing import Any

import uvloop
from fastapi import FastAPI
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.renderers import renderer_from_config
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.input_processor import InputProcessor

from benchmarks.stream_engine import StepEngine
from benchmarks.stream_side import App, answer
from benchmarks.stream_work import MODEL_NAME, Variant

# What a variant cannot do without; each parser takes time for every token.
_OPTIONS: dict[Variant, tuple[str, ...]] = {
    "thinking": ("--reasoning-parser", "qwen3"),
    "tools": ("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
}


class _EngineClient(StepEngine):
    """What vLLM's application asks of its engine besides generating."""

    errored = False
    is_running = True

    def __init__(self, vllm_config: Any) -> None:
        renderer = renderer_from_config(vllm_config)
        super().__init__(renderer.tokenizer)
        self.vllm_config = vllm_config
        self.model_config = vllm_config.model_config
        self.renderer = renderer
        self.input_processor = InputProcessor(vllm_config, renderer)

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        pass

    async def is_tracing_enabled(self) -> bool:
        return False


async def make_side(checkpoint: str, *options: str) -> tuple[App, StepEngine]:
    """The whole application as `vllm serve` makes it, and its engine."""
    shared = ("--model", checkpoint, "--served-model-name", MODEL_NAME, "--enforce-eager")
    parser = make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args([*shared, *options])
    engine = _EngineClient(AsyncEngineArgs.from_cli_args(args).create_engine_config())
    app: FastAPI = build_app(args, ("generate",), engine.model_config)
    await init_app_state(engine, app.state, args, ("generate",))
    return app, engine


async def main(checkpoint: str) -> None:
    plain = await make_side(checkpoint)
    others = {variant: await make_side(checkpoint, *_OPTIONS[variant]) for variant in _OPTIONS}
    await answer(lambda work: others.get(work.variant, plain))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
