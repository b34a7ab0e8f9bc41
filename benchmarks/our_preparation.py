"""Our side of `benchmarks.preprocess`: python -m benchmarks.our_preparation CHECKPOINT."""

import asyncio
import sys

from benchmarks.preparation import Prepare, answer
from multimodal.known_items import KnownItems
from multimodal.pipeline import MediaPipeline
from multimodal.preprocessor_config import load_preprocessor_config
from multimodal.vllm_input import engine_input
from server.body import parse_body
from server.conversation import build_conversation
from server.media_fetch import MediaFetcher
from server.media_refs import load_media_refs
from server.prompt import PromptRenderer
from server.protocol import ChatCompletionRequest
from server.settings import MediaSettings


def preparation(checkpoint: str) -> Prepare:
    """From the bytes of a request body to the engine's input, as the server does it."""
    settings = MediaSettings()
    known = KnownItems()
    renderer = PromptRenderer(checkpoint)
    pipeline = MediaPipeline(
        load_preprocessor_config(checkpoint),
        settings.limits,
        namespace="benchmark",
        num_workers=settings.num_workers,
        known=known,
    )
    fetcher = MediaFetcher(
        http_allowed=False,
        allowed_domains=(),
        connect_timeout_s=settings.connect_timeout_s,
        total_timeout_s=settings.fetch_timeout_s,
        max_redirects=settings.max_redirects,
        max_parallel=settings.max_parallel_fetches,
    )

    async def prepare(body: bytes) -> object:
        conversation = build_conversation(parse_body(body, ChatCompletionRequest).request)
        rendered = await asyncio.to_thread(renderer.render, conversation.messages, thinking=False)
        refs = await load_media_refs(conversation.media, fetcher, settings)
        prompt = renderer.expand(rendered, await pipeline.load(refs))
        return engine_input(prompt.token_ids, known.submit(prompt.items))

    return prepare


if __name__ == "__main__":
    asyncio.run(answer(preparation(sys.argv[1])))
