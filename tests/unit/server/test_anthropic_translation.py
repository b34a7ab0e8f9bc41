"""Anthropic's messages as the core's: roles, order, media, tools, and the names for errors."""

import orjson
import pytest

from server.anthropic.protocol import MessagesRequest
from server.anthropic.translation import Translation, translate
from server.body import parse_body
from server.body_data_url import BodyDataUrl
from server.conversation import build_conversation
from server.errors import InvalidRequest
from server.protocol import ChatCompletionRequest

SOURCE = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
IMAGE = {"type": "image", "source": SOURCE}
TEXT = {"type": "text", "text": "and this?"}
CALL = {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": ["the", "cat"]}}


def make_turn(role: str, content: object) -> dict:
    return {"role": role, "content": content}


def make_result(content: object = "sunny", **fields) -> dict:
    return {"type": "tool_result", "tool_use_id": "call_1", "content": content, **fields}


def translate_body(*turns, **fields) -> Translation:
    body = {"model": "qwen", "messages": turns or [make_turn("user", "hi")], **fields}
    return translate(parse_body(orjson.dumps(body), MessagesRequest).request)


def translate_request(*turns, **fields) -> ChatCompletionRequest:
    return translate_body(*turns, **fields).request


def render(*turns, **fields) -> list[dict]:
    """The messages that the chat template sees."""
    return build_conversation(translate_request(*turns, **fields)).messages


def test_string_content_stays_a_string():
    assert render(make_turn("user", "hi")) == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("system", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_system_prompt_comes_first(system):
    first, _ = render(system=system)
    assert first["role"] == "system"
    assert first["content"] in ("Be brief.", system)


def test_system_turn_keeps_its_place():
    turns = [make_turn("user", "a"), make_turn("system", "Be brief."), make_turn("user", "b")]
    assert [message["role"] for message in render(*turns)] == ["user", "system", "user"]


def test_billing_block_is_not_part_of_the_prompt():
    billing = {"type": "text", "text": "x-anthropic-billing-header: cch=12ab;"}
    first, _ = render(system=[billing, TEXT])
    assert first["content"] == [TEXT]
    assert [message["role"] for message in render(system=[billing])] == ["user"]


def test_answer_with_thinking_and_a_call_goes_back():
    thinking = {"type": "thinking", "thinking": "Look first.", "signature": "x"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    (message,) = render(make_turn("assistant", [thinking, redacted, TEXT, CALL]))
    function = {"name": "look", "arguments": {"at": ["the", "cat"]}}
    assert message == {
        "role": "assistant",
        "content": "and this?",
        "reasoning_content": "Look first.",
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }


@pytest.mark.parametrize("content", ["", []])
def test_empty_answer_goes_back(content):
    assert render(make_turn("assistant", content)) == [{"role": "assistant", "content": ""}]


def test_results_become_messages_before_what_follows_them():
    other = make_result("rainy", tool_use_id="call_2")
    messages = render(make_turn("user", [make_result(), other, TEXT, IMAGE]))
    assert messages == [
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
        {"role": "tool", "content": "rainy", "tool_call_id": "call_2"},
        {"role": "user", "content": [TEXT, {"type": "image"}]},
    ]


def test_blocks_between_results_stay_between_them():
    messages = render(make_turn("user", [TEXT, make_result(), IMAGE, make_result()]))
    assert [message["role"] for message in messages] == ["user", "tool", "user", "tool"]


@pytest.mark.parametrize(
    "content, rendered",
    [
        ("sunny", "sunny"),
        (None, ""),
        ([], ""),
        ([TEXT, IMAGE], [TEXT, {"type": "image"}]),
    ],
)
def test_content_of_a_result(content, rendered):
    (message,) = render(make_turn("user", [make_result(content)]))
    assert message["content"] == rendered


@pytest.mark.parametrize(
    "content, rendered",
    [
        ("no such file", "Error: no such file"),
        (None, "Error: "),
        ([TEXT], [{"type": "text", "text": "Error: "}, TEXT]),
    ],
)
def test_model_learns_that_a_result_is_an_error(content, rendered):
    (message,) = render(make_turn("user", [make_result(content, is_error=True)]))
    assert message["content"] == rendered


def test_media_become_urls():
    video = {"type": "video", "source": {"type": "url", "url": "https://example.com/a.mp4"}}
    frames = SOURCE | {"media_type": "video/jpeg", "data": "QUJD,QUJD"}
    content = [IMAGE, video, {"type": "video", "source": frames}]
    media = build_conversation(translate_request(make_turn("user", content))).media
    assert [(source.kind, source.urls) for source in media] == [
        ("image", ("data:image/png;base64,QUJD",)),
        ("video", ("https://example.com/a.mp4",)),
        ("frames", ("data:video/jpeg;base64,QUJD,QUJD",)),
    ]


def test_long_data_url_is_left_in_the_body():
    url = "data:image/png;base64," + "A" * 5000
    content = [{"type": "image", "source": {"type": "url", "url": url}}]
    (source,) = build_conversation(translate_request(make_turn("user", content))).media
    assert isinstance(source.urls[0], BodyDataUrl)


def test_long_base64_is_whole():
    content = [{"type": "image", "source": SOURCE | {"data": "A" * 5000}}]
    (source,) = build_conversation(translate_request(make_turn("user", content))).media
    assert source.urls == ("data:image/png;base64," + "A" * 5000,)


def test_places_in_the_body_are_known():
    history = [make_turn("user", "look"), make_turn("assistant", [CALL])]
    content = [make_result([TEXT, IMAGE], is_error=True), TEXT, IMAGE]
    translation = translate_body(*history, make_turn("user", content), system="Be brief.")
    names = translation.field_names
    params = [source.param for source in build_conversation(translation.request).media]
    assert [names[param] for param in params] == [
        "messages[2].content[0].content[1].source.data",
        "messages[2].content[2].source.data",
    ]
    assert names["messages[1].content"] == "messages[0].content"
    assert names["messages[4].content"] == "messages[2].content"


def test_place_of_a_url_is_its_url():
    content = [{"type": "image", "source": {"type": "url", "url": "https://example.com"}}]
    translation = translate_body(make_turn("user", content))
    (source,) = build_conversation(translation.request).media
    assert translation.field_names[source.param] == "messages[0].content[0].source.url"


@pytest.mark.parametrize("num_strings, num_results", [(4096, 2), (0, 0)])
def test_number_of_messages_is_bounded(num_strings, num_results):
    strings = [make_turn("user", "hi")] * (num_strings - 1)
    results = make_turn("user", [make_result()] * num_results)
    with pytest.raises(InvalidRequest) as caught:
        translate_body(*strings, results if num_results else make_turn("system", []))
    assert caught.value.param == "messages"


def test_number_of_calls_in_a_message_is_bounded():
    translate_body(make_turn("assistant", [CALL] * 128))
    with pytest.raises(InvalidRequest) as caught:
        translate_body(make_turn("user", "hi"), make_turn("assistant", [CALL] * 129))
    assert caught.value.param == "messages[1].content"


def test_input_that_is_nested_too_deeply_is_refused():
    body = orjson.dumps({"model": "qwen", "messages": [make_turn("assistant", [TEXT, CALL])]})
    deep = b'{"a":' * 500 + b"1" + b"}" * 500
    body = body.replace(b'["the","cat"]', deep)
    with pytest.raises(InvalidRequest) as caught:
        translate(parse_body(body, MessagesRequest).request)
    assert caught.value.param == "messages[0].content[1].input"


def test_drawing_is_kept():
    fields = {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 1,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "ignore_eos": True,
        "min_tokens": 2,
        "priority": 3,
        "logit_bias": {"5": 1.0},
        "stream": True,
    }
    request = translate_request(**fields, stop_sequences=["a", "b"])
    assert {name: getattr(request, name) for name in fields} == fields
    assert request.stop == ["a", "b"]


def test_what_is_not_said_is_left_to_the_checkpoint():
    assert translate_request().model_dump(exclude_defaults=True) == {
        "model": "qwen",
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_our_options_are_kept():
    request = translate_request(
        mm_processor_kwargs={"fps": 1.0}, chat_template_kwargs={"enable_thinking": False}
    )
    assert request.mm_processor_kwargs is not None and request.mm_processor_kwargs.fps == 1
    assert request.chat_template_kwargs is not None
    assert request.chat_template_kwargs.enable_thinking is False


def test_thinking_is_kept():
    thinking = translate_request(thinking={"type": "enabled", "budget_tokens": 99}).thinking
    assert thinking is not None
    assert (thinking.type, thinking.budget_tokens) == ("enabled", 99)


def test_tools_become_functions():
    schema = {"type": "object", "properties": {"at": {"type": "string"}}}
    tool = {"name": "look", "description": "Looks.", "input_schema": schema, "strict": True}
    (translated,) = translate_request(tools=[tool]).tools or ()
    assert translated.model_dump() == {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks.",
            "parameters": schema,
            "strict": True,
        },
    }


@pytest.mark.parametrize(
    "choice, translated",
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice(choice, translated):
    request = translate_request(tool_choice=choice)
    assert request.model_dump()["tool_choice"] == translated
    assert request.parallel_tool_calls is None


def test_parallel_calls_can_be_turned_off():
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert translate_request(tool_choice=choice).parallel_tool_calls is False


@pytest.mark.parametrize("name", ["output_config.format", "output_format"])
def test_format_becomes_a_json_schema(name):
    json_format = {"type": "json_schema", "schema": {"type": "object"}}
    outer, _, inner = name.partition(".")
    translation = translate_body(**{outer: {inner: json_format} if inner else json_format})
    response_format = translation.request.response_format
    assert response_format is not None and response_format.type == "json_schema"
    assert response_format.json_schema.json_schema == {"type": "object"}
    assert translation.field_names["response_format.json_schema.schema"] == f"{name}.schema"
