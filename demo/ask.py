"""Ask a running server about pictures and clips; what it thinks first is put in brackets."""

import argparse
import base64
import mimetypes
from pathlib import Path
from typing import Any

from openai import OpenAI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="images and videos")
    parser.add_argument("question")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--no-thinking", action="store_true", help="answer at once")
    arguments = parser.parse_args()
    client = OpenAI(base_url=arguments.base_url, api_key="unused")
    content = [_part(file) for file in arguments.files]
    switch = {"chat_template_kwargs": {"enable_thinking": False}}
    stream: Any = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[
            {"role": "user", "content": [*content, {"type": "text", "text": arguments.question}]}
        ],
        max_tokens=arguments.max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=switch if arguments.no_thinking else None,
    )
    is_thinking = False
    for chunk in stream:
        for choice in chunk.choices:
            thought = getattr(choice.delta, "reasoning_content", None)
            if bool(thought) != is_thinking and (thought or choice.delta.content):
                is_thinking = bool(thought)
                print("(" if is_thinking else ")\n", end="")
            print(thought or choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f"\n{chunk.usage.model_dump_json(exclude_none=True)}")


def _part(file: Path) -> Any:
    media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return data_url_part(media_type, file.read_bytes())


def data_url_part(media_type: str, data: bytes) -> dict[str, Any]:
    """An image or video of a user message, inside a data URL."""
    kind = "video_url" if media_type.startswith("video/") else "image_url"
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": kind, kind: {"url": url}}


if __name__ == "__main__":
    main()
