"""What `/v1/messages` takes, and how it names what it does not."""

import orjson
import pytest

from server.anthropic.dialect import AnthropicDialect, parse_count
from server.ask import Ask, Caller
from server.errors import InvalidRequest

IMAGE = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
TOOL = {"name": "look", "input_schema": {"type": "object"}}


def make_body(content="hi", **fields) -> dict:
    messages = [{"role": "user", "content": content}]
    return {"model": "qwen", "max_tokens": 9, "messages": messages, **fields}


def parse(content="hi", **fields) -> Ask:
    body = orjson.dumps(make_body(content, **fields))
    return AnthropicDialect().parse(body, Caller("", "qwen"))


def find_fault(content="hi", **fields) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(content, **fields)
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "u"}},
        {"service_tier": "auto"},
        {"cache_control": {"type": "ephemeral"}},
        {"container": None},
        {"mcp_servers": []},
        {"n": 1},
        {"output_config": {"effort": "high"}},
        {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {"content": [{"type": "text", "text": "x", "citations": None, "cache_control": None}]},
        {"content": [{"type": "image", "source": IMAGE, "cache_control": {"type": "ephemeral"}}]},
        {"tools": [TOOL | {"cache_control": {"type": "ephemeral"}, "type": "custom"}]},
        {"tools": [TOOL | {"type": None, "eager_input_streaming": True, "input_examples": []}]},
        {"tools": [TOOL | {"allowed_callers": ["direct"], "defer_loading": False}]},
    ],
)
def test_fields_without_effect_are_known(fields):
    assert parse(**fields).unknown == ()


def test_unknown_fields_are_ignored_and_named():
    content = [{"type": "text", "text": "x", "color": "red"}]
    unknown = parse(content, speed="fast").unknown
    assert set(unknown) == {"speed", "messages[0].content[0].color"}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "document", "source": {"type": "text", "data": "x", "media_type": "text/plain"}},
        {"type": "search_result", "content": []},
        {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
        {"type": "container_upload", "file_id": "x"},
    ],
)
def test_blocks_that_are_not_supported_are_named(block):
    fault = find_fault([{"type": "text", "text": "x"}, block])
    assert fault.param == "messages[0].content[1]"
    assert f"blocks of type `{block['type']}` are not supported" in fault.message


def test_type_that_is_no_name_is_not_repeated():
    fault = find_fault([{"type": "<script>"}])
    assert fault.message == "`messages[0].content[0]`: blocks of this type are not supported here"


@pytest.mark.parametrize("kind", ["web_search_20250305", "bash_20250124", "computer_20250124"])
def test_tools_that_are_not_the_clients_own_are_named(kind):
    fault = find_fault(tools=[TOOL, {"type": kind, "name": "x"}])
    assert fault.param == "tools[1]"
    assert f"tools of type `{kind}` are not supported" in fault.message


@pytest.mark.parametrize(
    "content, param",
    [
        ([], "messages[0].content"),
        ([{"type": "text"}], "messages[0].content[0].text"),
        ([{"text": "x"}], "messages[0].content[0]"),
        ([{"type": "image", "source": {"type": "file"}}], "messages[0].content[0].source"),
        ([{"type": "image", "source": {"type": "url"}}], "messages[0].content[0].source.url"),
        (
            [{"type": "image", "source": IMAGE | {"data": ""}}],
            "messages[0].content[0].source.data",
        ),
        (
            [{"type": "video", "source": IMAGE | {"media_type": "png;base64,"}}],
            "messages[0].content[0].source.media_type",
        ),
        (
            [{"type": "tool_result", "tool_use_id": "x", "content": [{"type": "document"}]}],
            "messages[0].content[0].content[0]",
        ),
        (
            [{"type": "tool_use", "id": "x", "name": "look", "input": {}}],
            "messages[0].content[0]",
        ),
    ],
)
def test_fault_in_content_is_named(content, param):
    assert find_fault(content).param == param


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_k": "1"}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"system": [{"type": "image", "source": IMAGE}]}, "system[0].type"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ],
)
def test_fault_in_a_field_is_named(fields, param):
    assert find_fault(**fields).param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"container": "c"},
        {"mcp_servers": [{"type": "url"}]},
        {"n": 2},
        {"stop": ["x"]},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_fields_that_are_not_supported_are_refused(fields):
    fault = find_fault(**fields)
    assert (fault.param, fault.code) == (*fields, "unsupported_parameter")


def test_tool_that_is_loaded_later_is_refused():
    fault = find_fault(tools=[TOOL | {"defer_loading": True}])
    assert (fault.param, fault.code) == ("tools[0].defer_loading", "unsupported_parameter")


def test_two_formats_are_refused():
    json_format = {"type": "json_schema", "schema": {}}
    fault = find_fault(output_format=json_format, output_config={"format": json_format})
    assert "`output_format`" in fault.message and "`output_config.format`" in fault.message


def test_max_tokens_is_required():
    fault = find_fault(max_tokens=None)
    assert (fault.param, fault.code) == ("max_tokens", "missing_parameter")


def test_beginning_of_an_answer_is_refused():
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "It is"}]
    fault = find_fault(messages=history)
    assert (fault.param, fault.code) == ("messages[1]", "unsupported_parameter")
    assert "prefill" in fault.message


def test_what_is_counted_needs_no_limit_and_no_question():
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "It is"}]
    body = orjson.dumps({"model": "qwen", "messages": history})
    ask = parse_count(body, Caller("", "qwen"))
    assert [message.role for message in ask.request.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    "fields, prefers_none",
    [
        ({}, True),
        ({"chat_template_kwargs": {}}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, False),
    ],
)
def test_thinking_is_off_unless_something_is_said(fields, prefers_none):
    assert parse(**fields).prefers_no_thinking is prefers_none
