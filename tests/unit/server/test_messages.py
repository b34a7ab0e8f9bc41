import orjson
import pytest

from multimodal.options import MediaOptions
from server.errors import InvalidRequest
from server.messages import Conversation, build_conversation
from server.protocol import parse_chat_request
from tests.fake_backend import image_part, make_body, video_part


def build(content="hi", **fields) -> Conversation:
    return build_conversation(parse_chat_request(orjson.dumps(make_body(content, **fields))))


def find_options(part, **kwargs) -> MediaOptions:
    conversation = build([part], mm_processor_kwargs=kwargs)
    return conversation.media[0].options


def test_string_content_stays_a_string():
    assert build("hi").messages == [{"role": "user", "content": "hi"}]


def test_developer_message_becomes_a_system_message():
    messages = build(messages=[{"role": "developer", "content": "be brief"}]).messages
    assert messages == [{"role": "system", "content": "be brief"}]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_of_the_history_goes_to_the_template(name):
    message = {"role": "assistant", "content": "4", name: "2 + 2"}
    assert build(messages=[message]).messages[0]["reasoning_content"] == "2 + 2"


def test_assistant_without_content_is_an_empty_string():
    assert build(messages=[{"role": "assistant"}]).messages[0]["content"] == ""


def test_template_sees_the_order_of_the_parts_and_no_url():
    parts = [image_part("data:a"), {"type": "text", "text": "vs"}, video_part("data:b")]
    conversation = build(parts)
    assert conversation.messages[0]["content"] == [
        {"type": "image"},
        {"type": "text", "text": "vs"},
        {"type": "video"},
    ]
    assert [source.urls for source in conversation.media] == [("data:a",), ("data:b",)]


def test_media_of_several_messages_stand_in_prompt_order():
    messages = [
        {"role": "user", "content": [image_part("data:1")]},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": [{"type": "text", "text": "?"}, image_part("data:2")]},
    ]
    params = [source.param for source in build(messages=messages).media]
    assert params == ["messages[0].content[0].image_url", "messages[2].content[1].image_url"]


def test_qwen_forms_are_the_same_media_as_the_openai_forms():
    qwen = build([{"type": "image", "image": "data:a", "max_pixels": 99}]).media[0]
    openai = build([image_part("data:a", max_pixels=99)]).media[0]
    assert (qwen.kind, qwen.urls, qwen.options) == (openai.kind, openai.urls, openai.options)


def test_list_of_frames_is_one_video():
    source = build([{"type": "video", "video": ["data:1", "data:2"], "sample_fps": 4}]).media[0]
    assert (source.kind, source.urls) == ("frames", ("data:1", "data:2"))
    assert source.options == MediaOptions(fps=4)


def test_data_url_of_jpeg_frames_is_a_list_of_frames():
    assert build([video_part("data:video/jpeg;base64,AA==")]).media[0].kind == "frames"


def test_nframes_is_num_frames():
    part = {"type": "video", "video": "data:a", "nframes": 6}
    assert find_options(part) == MediaOptions(num_frames=6)


def test_every_video_option_is_passed_on():
    options = {"min_pixels": 1, "max_pixels": 2, "fps": 3.0, "max_frames": 4}
    options |= {"video_start": 5.0, "video_end": 6.0, "total_pixels": 7}
    assert find_options(video_part(**options)) == MediaOptions(**options)


def test_option_of_the_request_applies_where_the_part_has_none():
    assert find_options(video_part(max_frames=8), fps=1, max_frames=9) == MediaOptions(
        fps=1, max_frames=8
    )


def test_sampling_of_a_part_replaces_the_other_way_of_the_request():
    assert find_options(video_part(num_frames=8), fps=1) == MediaOptions(num_frames=8)


def test_image_takes_only_pixel_options_from_the_request():
    assert find_options(image_part(), fps=1, max_pixels=9) == MediaOptions(max_pixels=9)


def test_size_bounds_the_pixels_of_an_image():
    size = {"shortest_edge": 3, "longest_edge": 5}
    assert find_options(image_part(), size=size) == MediaOptions(min_pixels=3, max_pixels=5)


def test_longest_edge_of_a_video_is_twice_the_total_pixels():
    options = find_options(video_part(), size={"longest_edge": 200})
    assert options == MediaOptions(total_pixels=100)


def test_shortest_edge_is_refused_for_a_video():
    with pytest.raises(InvalidRequest, match="shortest_edge"):
        find_options(video_part(), size={"shortest_edge": 3})


def test_sampling_of_the_request_leaves_listed_frames_alone():
    part = {"type": "video", "video": ["data:1"]}
    options = find_options(part, num_frames=4, video_start=1, do_sample_frames=False)
    assert options == MediaOptions()


def test_video_file_cannot_go_unsampled():
    with pytest.raises(InvalidRequest) as caught:
        find_options(video_part(), do_sample_frames=False)
    assert caught.value.param == "mm_processor_kwargs.do_sample_frames"
