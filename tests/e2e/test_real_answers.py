"""The official client asks about text, images and videos; the real engine answers."""

import openai
import pytest

from server.prompt import PromptRenderer
from tests.e2e.real_media import (
    FRAMES,
    count_bunny_tokens,
    count_clip_tokens,
    count_image_tokens,
    encode,
    image,
    text,
    video,
)
from tests.e2e.real_server import RealServer, make_request

ROCKET_TOKENS = count_image_tokens(640, 427)
QUESTION = text("What is in it?")
CONTENTS = {
    "text": "What is a circle?",
    "image": [image(), QUESTION],
    "video": [video(), QUESTION],
    "both": [QUESTION, image(), text("and"), video()],
}


def joined(chunks: list) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_stream_and_whole_answer_are_the_same(hybrid: RealServer, content):
    whole = hybrid.ask(content).choices[0]
    chunks = hybrid.stream(content)
    assert whole.message.content
    assert joined(chunks) == whole.message.content
    reasons = [c.choices[0].finish_reason for c in chunks]
    assert set(reasons[:-1]) == {None} and reasons[-1] == whole.finish_reason


async def test_asynchronous_client_reads_a_stream_about_an_image(hybrid: RealServer):
    content = CONTENTS["image"]
    client = openai.AsyncOpenAI(base_url=hybrid.client.base_url, api_key="none", max_retries=0)
    async with client:
        whole = await client.chat.completions.create(**make_request(content))
        stream = await client.chat.completions.create(**make_request(content, stream=True))
        chunks = [chunk async for chunk in stream]
    assert len(chunks) > 2
    assert joined(chunks) == whole.choices[0].message.content


def test_answers_depend_on_the_pixels(hybrid: RealServer):
    options = {"min_pixels": 65536, "max_pixels": 65536}
    names = ("rocket.jpg", "coffee_cmyk.jpg", "text_gray.jpg")
    logprobs = [
        hybrid.ask([image(name, **options), QUESTION], logprobs=True).choices[0].logprobs.content
        for name in names
    ]
    assert len({entries[0].logprob for entries in logprobs}) == len(names)


def test_usage_counts_the_tokens_of_an_image(hybrid: RealServer, renderer: PromptRenderer):
    usage = hybrid.ask([image(), QUESTION]).usage
    assert usage.prompt_tokens_details.image_tokens == ROCKET_TOKENS
    message = {"role": "user", "content": [{"type": "image"}, QUESTION]}
    rendered = renderer.render([message], thinking=False)
    assert usage.prompt_tokens == len(rendered) - 1 + ROCKET_TOKENS
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (video(), count_bunny_tokens()),
        (video(fps=8.0), count_bunny_tokens(fps=8.0)),
        (video(num_frames=10), count_bunny_tokens(num_frames=10)),
    ],
    ids=["default", "fps", "num_frames"],
)
def test_usage_counts_the_tokens_of_a_video(hybrid: RealServer, part, expected):
    details = hybrid.ask([part, QUESTION]).usage.prompt_tokens_details
    assert (details.video_tokens, details.image_tokens) == (expected, 0)


def test_pixel_bounds_of_a_request_change_the_image_tokens(hybrid: RealServer):
    bounds = {"min_pixels": 4096, "max_pixels": 40_000}
    expected = count_image_tokens(640, 427, **bounds)
    assert expected < ROCKET_TOKENS
    own = hybrid.ask([image(**bounds), QUESTION])
    shared = hybrid.ask([image(), QUESTION], extra_body={"mm_processor_kwargs": bounds})
    counts = [answer.usage.prompt_tokens_details.image_tokens for answer in (own, shared)]
    assert counts == [expected, expected]


def test_list_of_frames_is_a_video(hybrid: RealServer):
    url = f"data:video/jpeg;base64,{','.join(map(encode, FRAMES))}"
    answer = hybrid.ask([{"type": "video_url", "video_url": {"url": url}}, QUESTION])
    expected = count_clip_tokens(len(FRAMES), 160, 90)
    assert answer.usage.prompt_tokens_details.video_tokens == expected
    assert answer.choices[0].message.content


def test_forms_of_qwen_vl_utils_mean_the_same_as_those_of_openai(hybrid: RealServer):
    frames_url = f"data:video/jpeg;base64,{','.join(map(encode, FRAMES))}"
    frame_urls = [f"data:image/jpeg;base64,{encode(name)}" for name in FRAMES]
    pairs = [
        ({"type": "image", "image": image()["image_url"]["url"]}, image()),
        (
            {"type": "video", "video": video()["video_url"]["url"], "nframes": 6},
            video(num_frames=6),
        ),
        (
            {"type": "video", "video": frame_urls, "sample_fps": 4},
            {"type": "video_url", "video_url": {"url": frames_url, "fps": 4}},
        ),
    ]
    for theirs, openais in pairs:
        answers = [hybrid.ask([part, QUESTION]) for part in (theirs, openais)]
        first, second = (
            (a.choices[0].message.content, a.usage.prompt_tokens, a.usage.prompt_tokens_details)
            for a in answers
        )
        assert first[:2] == second[:2]
        assert first[2].video_tokens == second[2].video_tokens


def test_stream_ends_with_the_usage_of_the_whole_answer(hybrid: RealServer):
    content = CONTENTS["both"]
    whole = hybrid.ask(content).usage
    chunks = hybrid.stream(content, stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])
    streamed = chunks[-1].usage
    assert (streamed.prompt_tokens, streamed.completion_tokens) == (
        whole.prompt_tokens,
        whole.completion_tokens,
    )
    details = streamed.prompt_tokens_details
    expected = (ROCKET_TOKENS, count_bunny_tokens())
    assert (details.image_tokens, details.video_tokens) == expected


def test_second_turn_finds_the_first_in_the_prefix_cache(hybrid: RealServer):
    content = [image("astronaut_progressive.jpg", min_pixels=200_000), QUESTION]
    first, second = (hybrid.ask(content) for _ in range(2))
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in (first, second)]
    assert cached[0] == 0 < cached[1] < second.usage.prompt_tokens
    assert first.choices[0].message.content == second.choices[0].message.content


def test_other_image_of_the_same_size_is_not_taken_from_the_prefix_cache(hybrid: RealServer):
    bounds = {"min_pixels": 262_144, "max_pixels": 262_144}
    hybrid.ask([image("cat_exif6.jpg", **bounds), QUESTION])
    details = hybrid.ask([image("coffee_cmyk.jpg", **bounds), QUESTION]).usage
    assert details.prompt_tokens_details.cached_tokens == 0
