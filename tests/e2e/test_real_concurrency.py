"""Requests in one batch do not see each other."""

from concurrent.futures import ThreadPoolExecutor

from tests.e2e.real_media import FRAMES, encode, image, text, video
from tests.e2e.real_server import RealServer

FRAMES_PART = {
    "type": "video",
    "video": [f"data:image/jpeg;base64,{encode(name)}" for name in FRAMES],
}
CONTENTS = [
    "What is a circle?",
    "How many squares are there?",
    [image("rocket.jpg"), text("What is it?")],
    [image("cat_exif6.jpg"), image("coffee_cmyk.jpg"), text("Which?")],
    [video(), text("What happens?")],
    [FRAMES_PART, text("What happens?")],
    [text("See"), image("astronaut_progressive.jpg"), text("then"), video(num_frames=6)],
    [image("text_gray.jpg"), text("Read it.")],
]


def ask(server: RealServer, content, streamed: bool) -> str:
    if not streamed:
        return server.ask(content, max_tokens=24).choices[0].message.content
    chunks = server.stream(content, max_tokens=24)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_sixteen_requests_at_once_get_the_answers_that_each_gets_alone(hybrid: RealServer):
    alone = [ask(hybrid, content, streamed=False) for content in CONTENTS]
    assert len(set(alone)) == len(CONTENTS)
    requests = [(content, streamed) for streamed in (True, False) for content in CONTENTS]
    with ThreadPoolExecutor(len(requests)) as threads:
        together = list(threads.map(lambda request: ask(hybrid, *request), requests))
    assert together == alone * 2
