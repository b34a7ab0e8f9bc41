import orjson
import pytest

from server.errors import InvalidRequest
from server.protocol import MAX_OBJECT_KEYS, parse_chat_request
from tests.fake_backend import image_part, make_body


def parse(content="hi", **fields):
    return parse_chat_request(orjson.dumps(make_body(content, **fields)))


def refuse(content="hi", **fields) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(content, **fields)
    return caught.value


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff"])
def test_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(InvalidRequest) as caught:
        parse_chat_request(body)
    assert caught.value.code == "invalid_json"


def test_unknown_parameter_is_named():
    error = refuse(temprature=1)
    assert (error.code, error.param) == ("unknown_parameter", "temprature")


def test_long_unknown_name_is_cut():
    assert len(refuse(**{"x" * 5000: 1}).message) < 200


def test_many_faults_are_counted_not_listed():
    error = refuse(**{f"unknown_{index}": 1 for index in range(50)})
    assert error.message.count("unknown_") == 3
    assert error.message.endswith("47 more")


def test_object_with_very_many_keys_is_refused_before_validation():
    error = refuse(**{f"unknown_{index}": 1 for index in range(MAX_OBJECT_KEYS)})
    assert str(MAX_OBJECT_KEYS) in error.message and "unknown" not in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("prediction", {"type": "content"}),
        ("reasoning_effort", "high"),
        ("thinking_budget", 100),
        ("chat_template", "{{ messages }}"),
    ],
)
def test_known_parameter_without_support_is_refused(name, value):
    error = refuse(**{name: value})
    assert (error.code, error.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []),
        ("tools", None),
        ("tool_choice", "none"),
        ("response_format", {"type": "text"}),
        ("modalities", ["text"]),
        ("user", "somebody"),
        ("metadata", {"a": "b"}),
        ("store", True),
        ("service_tier", "auto"),
        ("parallel_tool_calls", True),
    ],
)
def test_parameter_that_changes_nothing_is_accepted(name, value):
    assert parse(**{name: value}) == parse()


@pytest.mark.parametrize("role", ["tool", "function"])
def test_tool_result_is_refused_by_name(role):
    error = refuse(messages=[{"role": role, "content": "42", "tool_call_id": "x"}])
    assert error.code == "unsupported_parameter"
    assert error.param == "messages[0].role"
    assert "tool results" in error.message


def test_answer_sent_back_by_the_openai_client_is_accepted():
    message = {"role": "assistant", "content": "yes", "refusal": None, "annotations": None}
    message |= {"audio": None, "function_call": None, "tool_calls": None, "reasoning": "hm"}
    parsed = parse(messages=[message]).messages[0]
    assert (parsed.content, parsed.reasoning) == ("yes", "hm")


def test_tool_call_in_history_is_refused():
    error = refuse(messages=[{"role": "assistant", "content": None, "tool_calls": [{}]}])
    assert error.param == "messages[0].tool_calls"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url"}, "messages[0].content[1].image_url"),
        (image_part(url=5), "messages[0].content[1].image_url.url"),
        (image_part(min_pixels=0), "messages[0].content[1].image_url.min_pixels"),
        (image_part(fps=2), "messages[0].content[1].image_url.fps"),
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


def test_template_argument_other_than_the_thinking_switch_is_refused():
    error = refuse(chat_template_kwargs={"tokenize": True})
    assert error.param == "chat_template_kwargs.tokenize"


def test_processor_argument_that_is_not_known_is_refused():
    error = refuse(mm_processor_kwargs={"fps": 2, "code_revision": "x"})
    assert error.param == "mm_processor_kwargs.code_revision"


def test_size_excludes_the_other_pixel_options():
    error = refuse(mm_processor_kwargs={"size": {"longest_edge": 9}, "max_pixels": 9})
    assert "size" in error.message


def test_sample_fps_is_refused_for_a_video_file():
    assert "sample_fps" in refuse([{"type": "video", "video": "data:", "sample_fps": 1}]).message
