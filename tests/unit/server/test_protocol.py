import orjson
import pytest

from server.body import parse_body
from server.errors import InvalidRequest
from server.protocol import ChatCompletionRequest
from tests.fake_backend import image_part, make_body, parse_chat


def parse(content="hi", **fields):
    return parse_chat(orjson.dumps(make_body(content, **fields)))


def refuse(content="hi", **fields) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(content, **fields)
    return caught.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{}]),
        ("function_call", "auto"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("prediction", {"type": "content"}),
        ("chat_template", "{{ messages }}"),
        ("continue_final_message", True),
        ("bad_words", ["x"]),
        ("prompt_logprobs", 1),
        ("include_reasoning", False),
        ("skip_special_tokens", False),
        ("use_beam_search", True),
        ("web_search_options", {}),
    ],
)
def test_known_parameter_without_support_is_refused(name, value):
    error = refuse(**{name: value})
    assert (error.code, error.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", None),
        ("functions", []),
        ("function_call", "none"),
        ("modalities", ["text"]),
        ("include_reasoning", True),
        ("continue_final_message", False),
    ],
)
def test_neutral_value_of_an_unsupported_parameter_is_as_good_as_none(name, value):
    assert getattr(parse(**{name: value}), name) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", "somebody"),
        ("metadata", {"a": "b"}),
        ("store", True),
        ("service_tier", "auto"),
        ("prompt_cache_key", "k"),
        ("safety_identifier", "s"),
    ],
)
def test_parameter_without_effect_is_known(name, value):
    parsed = parse_body(orjson.dumps(make_body(**{name: value})), ChatCompletionRequest)
    assert parsed.unknown == ()


def test_answer_sent_back_by_the_openai_client_is_accepted():
    message = {"role": "assistant", "content": "yes", "refusal": None, "annotations": None}
    message |= {"audio": None, "function_call": None, "tool_calls": None, "reasoning": "hm"}
    parsed = parse(messages=[message]).messages[0]
    assert (parsed.content, parsed.reasoning) == ("yes", "hm")


FUNCTION = {"name": "look", "parameters": {"type": "object", "anything": [1]}}


def test_a_tool_is_read():
    (tool,) = parse(tools=[{"type": "function", "function": FUNCTION}]).tools
    assert (tool.function.name, tool.function.parameters) == ("look", FUNCTION["parameters"])


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_a_tool_choice_is_a_word(choice):
    assert parse(tool_choice=choice).tool_choice == choice


def test_a_tool_choice_may_name_a_function():
    named = {"type": "function", "function": {"name": "look"}}
    assert parse(tool_choice=named).tool_choice.function.name == "look"


def make_call(**function):
    message = {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}
    return {"messages": [message]}


def test_a_call_of_the_history_is_read():
    (call,) = parse(**make_call(name="f", arguments="{}")).messages[0].tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("1", "f", "{}")


@pytest.mark.parametrize("missing", ["name", "arguments"])
def test_a_call_of_the_history_needs_its_name_and_arguments(missing):
    function = {"name": "f", "arguments": "{}"}
    del function[missing]
    error = refuse(**make_call(**function))
    assert error.code == "missing_parameter"
    assert error.param == f"messages[0].tool_calls[0].function.{missing}"


def test_a_tool_result_names_its_call_and_may_hold_an_image():
    result = {"role": "tool", "tool_call_id": "1", "content": [image_part()]}
    assert parse(messages=[result]).messages[0].tool_call_id == "1"
    del result["tool_call_id"]
    assert refuse(messages=[result]).param == "messages[0].tool_call_id"


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "web_search"}], "tools[0].type"),
        ([{"type": "function"}], "tools[0].function"),
        ([{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
        ([{"type": "function", "function": {"name": "x" * 129}}], "tools[0].function.name"),
        (
            [{"type": "function", "function": {"name": "f", "parameters": []}}],
            "tools[0].function.parameters",
        ),
        ([{"type": "function", "function": FUNCTION}] * 129, "tools"),
    ],
)
def test_fault_in_a_tool_points_at_it(tools, param):
    assert refuse(tools=tools).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": 1}}},
            "response_format.json_schema.schema",
        ),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_choice": "yes"}, "guided_choice"),
        ({"structured_outputs": {"json": [1]}}, "structured_outputs.json"),
        ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs.structural_tag"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"priority": 2**31}, "priority"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ],
)
def test_fault_points_at_its_field(fields, param):
    assert refuse(**fields).param == param


def test_a_schema_may_be_a_truth_value_or_a_text():
    format = {"type": "json_schema", "json_schema": {"name": "n", "schema": True}}
    assert parse(response_format=format).response_format.json_schema.json_schema is True
    assert parse(guided_json='{"type": "object"}').guided_json == '{"type": "object"}'


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url"}, "messages[0].content[1].image_url"),
        (image_part(url=5), "messages[0].content[1].image_url.url"),
        (image_part(min_pixels=0), "messages[0].content[1].image_url.min_pixels"),
        ({"type": "video", "video": ["a", 1]}, "messages[0].content[1].video[1]"),
        ({"type": "input_audio"}, "messages[0].content[1]"),
        ("text", "messages[0].content[1]"),
    ],
)
def test_fault_in_a_part_points_at_it(part, param):
    assert refuse([{"type": "text", "text": "hi"}, part]).param == param


def test_system_message_takes_no_image():
    error = refuse(messages=[{"role": "system", "content": [image_part()]}])
    assert error.param.startswith("messages[0].content[0]")


def test_role_that_is_unknown_is_not_echoed():
    error = refuse(messages=[{"role": "secret-role", "content": "x"}])
    assert "secret-role" not in error.message and "assistant" in error.message


def test_text_of_the_wrong_type_is_not_echoed():
    assert "secret" not in refuse(temperature="secret").message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1.5),
        ("n", 0),
        ("n", 17),
        ("max_tokens", 0),
        ("presence_penalty", 2.5),
        ("repetition_penalty", 0),
        ("top_logprobs", 21),
    ],
)
def test_number_out_of_bounds_is_refused_with_its_value(name, value):
    error = refuse(**{name: value})
    assert error.param == name
    assert f"given: {value}" in error.message


@pytest.mark.parametrize("value", ["1", True, [1]])
def test_number_of_another_type_is_refused(value):
    assert refuse(temperature=value).param == "temperature"


def test_single_stop_string_becomes_a_list():
    assert parse(stop="end").stop == ["end"]


@pytest.mark.parametrize("stop", ["", ["a"] * 17, ["a" * 257], 5, [5]])
def test_stop_out_of_bounds_is_refused(stop):
    assert refuse(stop=stop).param == "stop"


@pytest.mark.parametrize("bias", [{"x": 1}, {"1": 101}, {"1": "1"}, {"-1": 1}, {"1": True}])
def test_logit_bias_out_of_bounds_is_refused(bias):
    assert refuse(logit_bias=bias).param == "logit_bias"


def test_two_different_token_limits_are_refused():
    assert "differ" in refuse(max_tokens=1, max_completion_tokens=2).message


def test_newer_name_of_the_token_limit_is_read():
    assert parse(max_completion_tokens=7).token_limit == 7


def test_top_logprobs_need_logprobs():
    assert "logprobs" in refuse(top_logprobs=1).message


def test_stream_options_need_a_stream():
    assert "stream" in refuse(stream_options={"include_usage": True}).message


def test_usage_of_every_chunk_is_asked_for_with_that_of_the_stream():
    both = {"include_usage": True, "continuous_usage_stats": True}
    assert parse(stream=True, stream_options=both).includes_continuous_usage
    alone = parse(stream=True, stream_options={"continuous_usage_stats": True})
    assert not alone.includes_continuous_usage and not alone.includes_usage


def test_size_excludes_the_other_pixel_options():
    error = refuse(mm_processor_kwargs={"size": {"longest_edge": 9}, "max_pixels": 9})
    assert "size" in error.message


def test_sample_fps_is_refused_for_a_video_file():
    assert "sample_fps" in refuse([{"type": "video", "video": "data:", "sample_fps": 1}]).message
