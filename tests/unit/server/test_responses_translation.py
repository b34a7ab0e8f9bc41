import base64

import orjson
import pytest

from server.body import parse_body
from server.body_data_url import BodyDataUrl
from server.conversation import build_conversation
from server.errors import InvalidRequest
from server.protocol import AssistantMessage, ChatCompletionRequest, UserMessage
from server.responses.conversation import read_answer, read_item
from server.responses.protocol import ResponsesRequest
from server.responses.translation import Translation, translate

URL = "https://example.com/cat.png"
LONG_URL = "data:image/png;base64," + base64.b64encode(bytes(6000)).decode()
TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}


def refuse_reference(item_id, param):
    raise InvalidRequest(item_id, "item_not_found", param)


def translate_body(
    given="hi", history=(), find_item=refuse_reference, detaches=False, **fields
) -> Translation:
    body = orjson.dumps({"model": "qwen", "input": given, **fields})
    request = parse_body(body, ResponsesRequest).request
    return translate(request, history, find_item, detaches=detaches)


def request_of(given="hi", **fields) -> ChatCompletionRequest:
    return translate_body(given, **fields).request


def render(given, **fields):
    """The messages as the template gets them."""
    return build_conversation(request_of(given, **fields)).messages


def refuse(given="hi", **fields) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        translate_body(given, **fields)
    return caught.value


def user(*parts):
    return {"role": "user", "content": list(parts)}


def output_text(text):
    return {"type": "output_text", "text": text}


def image(url=URL, **options):
    return {"type": "input_image", "image_url": url, **options}


def reasoning(text):
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}


def call(call_id="call_1", arguments='{"x": 1}', **fields):
    item = {"type": "function_call", "call_id": call_id, "name": "f", "arguments": arguments}
    return item | fields


def result(call_id="call_1", output="42"):
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def answer(text, **fields):
    return {"type": "message", "role": "assistant", "content": [output_text(text)], **fields}


def test_text_is_a_message_of_the_user():
    assert render("hi") == [{"role": "user", "content": "hi"}]


def test_instructions_come_first():
    given = [{"role": "developer", "content": [{"type": "input_text", "text": "b"}]}]
    assert render(given, instructions="a") == [
        {"role": "system", "content": "a"},
        {"role": "system", "content": "b"},
    ]


def test_parts_keep_their_order_and_options():
    video = {"type": "input_video", "video_url": "https://example.com/a.mp4", "fps": 2}
    given = [user({"type": "input_text", "text": "a"}, image(max_pixels=5000), video)]
    conversation = build_conversation(request_of(given))
    assert conversation.messages[0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image"},
        {"type": "video"},
    ]
    first, second = conversation.media
    assert (first.kind, first.urls, first.options.max_pixels) == ("image", (URL,), 5000)
    assert (second.kind, second.options.fps) == ("video", 2)


def test_items_of_one_answer_are_one_message():
    given = ["hi", reasoning("hm"), answer("Let me look."), call("a"), call("b"), result("a")]
    given[0] = user({"type": "input_text", "text": "hi"})
    _, assistant, tool = render(given)
    assert assistant["reasoning_content"] == "hm"
    assert assistant["content"] == "Let me look."
    assert [made["id"] for made in assistant["tool_calls"]] == ["a", "b"]
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert tool == {"role": "tool", "content": "42", "tool_call_id": "a"}


@pytest.mark.parametrize(
    ("items", "contents"),
    [
        ([answer("a"), answer("b")], ["a", "b"]),
        ([answer("a"), reasoning("hm"), answer("b")], ["a", "b"]),
        ([answer("a"), call(), answer("b")], ["ab"]),
        ([call(), reasoning("hm"), answer("b")], ["b"]),
        ([reasoning("hm"), reasoning("hm"), answer("b")], ["b"]),
        ([answer("a"), call(), result(), answer("b")], ["a", "42", "b"]),
        ([answer("a"), call(arguments='{"x', status="incomplete"), answer("b")], ["ab"]),
        ([answer("a"), {"role": "assistant", "content": "b"}], ["a", "b"]),
        ([call()], [""]),
    ],
)
def test_answers_are_told_apart(items, contents):
    assert [message["content"] for message in render(items)] == contents


def test_summary_stands_in_for_reasoning_that_is_not_given():
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    assert render([item, answer("a")])[0]["reasoning_content"] == "hm"


def test_refusal_is_text():
    item = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert render([item])[0]["content"] == "no"


def test_result_may_hold_an_image():
    conversation = build_conversation(
        request_of([call(), result(output=[{"type": "input_text", "text": "see"}, image()])])
    )
    assert conversation.messages[1]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image"},
    ]
    assert conversation.media[0].urls == (URL,)


@pytest.mark.parametrize("arguments", ["[]", "{", "text"])
def test_arguments_that_are_no_object_are_refused(arguments):
    error = refuse([answer("a"), call(arguments=arguments)])
    assert error.param == "input[1].arguments"


def test_reference_is_replaced_by_its_item():
    found = {}

    def find_item(item_id, param):
        found[param] = item_id
        return read_item(answer("a", id=item_id))

    given = [user(image()), {"type": "item_reference", "id": "msg_1"}, {"id": "msg_2"}]
    messages = render(given, find_item=find_item)
    assert [message["content"] for message in messages[1:]] == ["a", "a"]
    assert found == {"input[1]": "msg_1", "input[2]": "msg_2"}


def test_reference_that_is_not_found_is_named():
    assert refuse([user(image()), {"id": "msg_1"}]).param == "input[1]"


def test_history_comes_between_instructions_and_input():
    history = (
        UserMessage(role="user", content="a"),
        AssistantMessage(role="assistant", content="b"),
    )
    translation = translate_body("c", history, instructions="x")
    assert [m.content for m in translation.request.messages] == ["x", "a", "b", "c"]
    assert [m.content for m in translation.conversation] == ["a", "b", "c"]
    assert translation.conversation[0] is history[0]


@pytest.mark.parametrize("fields", [{}, {"instructions": "x"}])
def test_long_history_is_refused(fields):
    history = (UserMessage(role="user", content="a"),) * (4096 - len(fields))
    error = refuse("hi", history=history, **fields)
    assert error.param == "input" and "4097" in error.message


def test_many_calls_of_one_answer_are_refused():
    error = refuse([call() for _ in range(129)])
    assert error.param == "input" and "129" in error.message


def test_many_calls_of_a_kept_answer_are_kept():
    assert len(read_answer([call() for _ in range(129)]).tool_calls) == 129


def test_result_may_be_empty():
    assert render([call(), result(output=[])])[1]["content"] == ""


def test_fields_of_the_core_have_their_names_in_the_body():
    history = (request_of([user(image())]).messages[0],)
    given = [answer("a"), user({"type": "input_text", "text": "b"}, image()), call()]
    given.append(result(output=[image()]))
    translation = translate_body(given, history, instructions="x")
    media = build_conversation(translation.request).media
    assert [translation.field_names[source.param] for source in media] == [
        "previous_response_id",
        "input[1].content[1].image_url",
        "input[3].output[0].image_url",
    ]
    assert translation.field_names["messages[3].content"] == "input[1].content"
    assert translation.field_names["messages"] == "input"


def test_long_data_url_is_handed_on_as_it_is():
    message = request_of([user(image(LONG_URL))]).messages[0]
    url = message.content[0].image_url.url
    assert isinstance(url, BodyDataUrl) and len(url.payload) == 8000
    assert url.payload.nbytes < len(url.payload.obj)  # a view of the body


def test_long_data_url_can_be_copied_out_of_the_body():
    message = request_of([user(image(LONG_URL))], detaches=True).messages[0]
    url = message.content[0].image_url.url
    assert isinstance(url, BodyDataUrl)
    assert len(url.payload.obj) == 8000
    assert url + url.parse_payload() == LONG_URL


@pytest.mark.parametrize("kind", ["web_search", "file_search", "custom", "mcp"])
def test_tool_that_is_no_function_is_refused_by_name(kind):
    error = refuse(tools=[TOOL, {"type": kind}])
    assert (error.code, error.param) == ("unsupported_parameter", "tools[1].type")
    assert f"`{kind}`" in error.message


def test_hostile_type_of_tool_is_not_echoed():
    assert "<" not in refuse(tools=[{"type": "<script>"}]).message


def test_function_tools_are_translated():
    request = request_of(tools=[{**TOOL, "strict": True}], parallel_tool_calls=False)
    function = request.tools[0].function
    assert (function.name, function.description, function.strict) == ("f", "d", True)
    assert function.parameters == {"type": "object"}
    assert request.parallel_tool_calls is False
    assert build_conversation(request).tools[0]["function"]["name"] == "f"


@pytest.mark.parametrize("choice", ["none", "auto", "required", None])
def test_choice_of_tools_is_the_same(choice):
    assert request_of(tools=[TOOL], tool_choice=choice).tool_choice == choice


def test_named_choice_is_nested():
    choice = request_of(tools=[TOOL], tool_choice={"type": "function", "name": "f"}).tool_choice
    assert choice.function.name == "f"


SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}


def test_schema_is_nested():
    wanted = request_of(text={"format": SCHEMA}).response_format
    assert (wanted.type, wanted.json_schema.json_schema) == ("json_schema", {"type": "object"})


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_format_without_schema_is_the_same(kind):
    assert request_of(text={"format": {"type": kind}}).response_format.type == kind


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "f"}])
def test_format_of_text_is_dropped_where_a_call_is_forced(choice):
    request = request_of(tools=[TOOL], tool_choice=choice, text={"format": SCHEMA})
    assert request.response_format is None


def test_drawing_is_the_same():
    fields = {
        "frequency_penalty": 0.5,
        "ignore_eos": True,
        "logit_bias": {"5": 1.0},
        "min_p": 0.1,
        "min_tokens": 2,
        "presence_penalty": 0.25,
        "priority": 3,
        "repetition_penalty": 1.1,
        "seed": 7,
        "stop": ["x"],
        "stream": True,
        "temperature": 0.5,
        "top_k": 10,
        "top_p": 0.9,
    }
    request = request_of(**fields, stream_options={"include_obfuscation": False})
    assert {name: getattr(request, name) for name in fields} == fields


def test_other_options_are_translated():
    request = request_of(
        max_output_tokens=30,
        reasoning={"effort": "low", "summary": "auto"},
        enable_thinking=True,
        thinking_budget=5,
        chat_template_kwargs={"enable_thinking": True},
        mm_processor_kwargs={"max_pixels": 5000},
    )
    assert (request.token_limit, request.n) == (30, None)
    assert request.reasoning.effort == "low"
    assert (request.enable_thinking, request.thinking_budget) == (True, 5)
    assert request.chat_template_kwargs.enable_thinking is True
    assert request.mm_processor_kwargs.max_pixels == 5000


def test_logprobs_are_asked_for_by_include():
    include = ["message.output_text.logprobs"]
    assert request_of(include=include).num_logprobs == 0
    assert request_of(include=include, top_logprobs=3).num_logprobs == 3
    assert request_of(top_logprobs=3).num_logprobs is None


def test_output_without_items_is_an_empty_answer():
    assert read_answer([]).content == ""
