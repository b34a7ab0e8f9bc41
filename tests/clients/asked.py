"""What every client asks: questions that the demo model answers well, and types that it fills in.

Under a grammar its answers have the right form but may make no sense, so tests look at the content
of free answers only.
"""

import base64
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
PICTURE = (ROOT / "demo" / "examples" / "number.png").read_bytes()
PICTURE_BASE64 = base64.b64encode(PICTURE).decode()
PICTURE_URL = f"data:image/png;base64,{PICTURE_BASE64}"
READ_NUMBER, NUMBER = "What number is shown?", "407"
ADD, SUM = "What is 3 + 4?", "7"
ASK_WEATHER = "What is the weather in Paris?"
WEATHER, WEATHER_ANSWER = {"temperature": 21}, "It is 21 degrees in Paris."
WEATHER_TEXT = json.dumps(WEATHER)
TOOL_NAME = "get_weather"
CITY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
# Without thinking, in requests whose client lets further fields through.
NO_THINKING: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}


class Reading(BaseModel):
    """The number in a picture."""

    number: int


def read_number() -> Any:
    """A chat message with the picture of a number."""
    content = [
        {"type": "image_url", "image_url": {"url": PICTURE_URL}},
        {"type": "text", "text": READ_NUMBER},
    ]
    return user(content)


def user(content: Any) -> Any:
    """A conversation of one message; `content` is text or a list of parts."""
    return [{"role": "user", "content": content}]
