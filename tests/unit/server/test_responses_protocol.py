import orjson
import pytest

from server.body import parse_body
from server.errors import InvalidRequest
from server.responses.protocol import ResponsesRequest

IMAGE = {"type": "input_image", "image_url": "https://example.com/cat.png"}


def parse(given="hi", **fields):
    body = {"model": "qwen", "input": given, **fields}
    return parse_body(orjson.dumps(body), ResponsesRequest)


def refuse(given="hi", **fields) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(given, **fields)
    return caught.value


def message(*parts, role="user"):
    return {"role": role, "content": list(parts)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("background", True),
        ("context_management", [{"type": "compaction"}]),
        ("conversation", "conv_1"),
        ("max_tokens", 5),
        ("max_tool_calls", 1),
        ("moderation", {"model": "x"}),
        ("n", 2),
        ("prompt", {"id": "x"}),
        ("truncation", "auto"),
    ],
)
def test_known_parameter_without_support_is_refused(name, value):
    error = refuse(**{name: value})
    assert (error.code, error.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
    ],
)
def test_known_option_without_support_is_refused(field, param):
    error = refuse(**field)
    assert (error.code, error.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("background", False),
        ("include", ["reasoning.encrypted_content", "web_search_call.action.sources"]),
        ("metadata", {"a": "b"}),
        ("n", 1),
        ("prompt_cache_key", "x"),
        ("prompt_cache_options", {"mode": "implicit"}),
        ("prompt_cache_retention", "24h"),
        ("reasoning", {"summary": "auto", "generate_summary": "auto", "context": "auto"}),
        ("safety_identifier", "x"),
        ("service_tier", "auto"),
        ("store", True),
        ("text", {"verbosity": "medium", "format": {"type": "text"}}),
        ("truncation", "disabled"),
        ("user", "somebody"),
    ],
)
def test_parameter_that_changes_nothing_is_accepted(name, value):
    assert parse(**{name: value}).unknown == ()


def test_unknown_fields_are_named():
    given = [{"role": "user", "content": "hi", "mood": "good"}]
    assert set(parse(given, temprature=1).unknown) == {"temprature", "input[0].mood"}


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"include": ["everything"]}, "include[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_fault_points_at_its_field(field, param):
    assert refuse(**field).param == param


def test_long_key_of_metadata_is_refused():
    assert refuse(metadata={"x" * 65: ""}).param.startswith("metadata.xxx")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ("text", "input[0]"),
        ({"type": "web_search_call", "id": "ws_1"}, "input[0]"),
        ({"type": ["message"], "role": "user", "content": "hi"}, "input[0]"),
        ({"role": "critic", "content": "hi"}, "input[0]"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": []}, "input[0].content"),
        (message({"type": "input_audio"}), "input[0].content[0]"),
        (message(IMAGE, {"type": "input_image"}), "input[0].content[1].image_url"),
        (message({**IMAGE, "file_id": "file_1"}), "input[0].content[0].file_id"),
        (message({**IMAGE, "min_pixels": 0}), "input[0].content[0].min_pixels"),
        (message(IMAGE, role="assistant"), "input[0].content[0]"),
        (message(IMAGE, role="system"), "input[0].content[0].type"),
        ({"type": "function_call", "call_id": "a", "name": "f"}, "input[0].arguments"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        ({"type": "reasoning", "content": [{"text": "x"}]}, "input[0].content[0].type"),
        ({"type": "item_reference"}, "input[0].id"),
    ],
)
def test_fault_in_an_item_points_at_it(item, param):
    assert refuse([item]).param == param


@pytest.mark.parametrize("given", [None, 5, []])
def test_input_is_text_or_items(given):
    assert refuse(given).param == "input"


def test_many_items_make_one_fault():
    assert refuse([{"role": "user"}] * 4000).message == "`input[0].content` is required"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "x"}]},
        {"role": "user", "content": [{**IMAGE, "detail": "original"}], "status": "completed"},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "phase": "final_answer",
            "content": [
                {"type": "output_text", "text": "x", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "x"}],
            "content": None,
            "encrypted_content": None,
            "status": None,
        },
        {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "call_1",
            "name": "f",
            "arguments": "{}",
            "status": "completed",
            "namespace": None,
        },
        {"type": "function_call_output", "call_id": "call_1", "output": [IMAGE]},
        {"id": "msg_1"},
    ],
)
def test_item_as_clients_write_it_has_no_unknown_fields(item):
    assert parse([item]).unknown == ()
