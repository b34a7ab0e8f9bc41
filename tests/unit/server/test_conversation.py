import orjson
import pytest

from multimodal.options import MediaOptions
from server.conversation import Conversation, build_conversation
from server.errors import InvalidRequest
from tests.fake_backend import image_part, make_body, parse_chat, video_part


def build(content="hi", **fields) -> Conversation:
    return build_conversation(parse_chat(orjson.dumps(make_body(content, **fields))))


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


TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "strict": True}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}


def make_call(arguments, **fields):
    function = {"name": "look", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call], **fields}


def test_tools_are_described_as_templates_expect_them():
    other = {"type": "function", "function": {"name": "go", "parameters": SCHEMA}}
    look = {"name": "look", "description": "Looks."}
    look["parameters"] = {"type": "object", "properties": {}}
    assert build(tools=[TOOL, other]).tools == (
        {"type": "function", "function": look},
        {"type": "function", "function": {"name": "go", "parameters": SCHEMA}},
    )


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": [TOOL], "tool_choice": "none"}])
def test_model_is_told_of_no_tool_that_it_may_not_call(fields):
    assert build(**fields).tools == ()


def test_arguments_of_a_call_are_an_object_to_the_template():
    (message,) = build(messages=[make_call('{"x": [1.5, "ż"]}')]).messages
    (call,) = message["tool_calls"]
    assert call == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": {"x": [1.5, "ż"]}},
    }
    assert message["content"] == ""


def test_call_without_arguments_has_none():
    (message,) = build(messages=[make_call("")]).messages
    assert message["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["[7]", "null", '"x"', "{", '{"a": NaN}'])
def test_arguments_that_are_no_object_are_refused_without_echo(arguments):
    messages = [{"role": "user", "content": "hi"}, make_call(arguments)]
    with pytest.raises(InvalidRequest) as caught:
        build(messages=messages)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"
    assert arguments not in caught.value.message


def test_result_of_a_tool_may_hold_media():
    result = {"role": "tool", "tool_call_id": "call_1", "content": [image_part("data:a")]}
    conversation = build(messages=[make_call("{}"), result])
    assert conversation.messages[1] == {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": [{"type": "image"}],
    }
    assert conversation.media[0].param == "messages[1].content[0].image_url"
