import orjson
import pytest

from server.errors import InvalidRequest
from server.thinking import Thinking, resolve_thinking
from tests.fake_backend import image_part, make_body, parse_chat

ON, OFF = Thinking(True), Thinking(False)


def resolve(kind="hybrid", content="hi", **fields) -> Thinking:
    request = parse_chat(orjson.dumps(make_body(content, **fields)))
    return resolve_thinking(request, kind, thinks_by_default=kind != "instruct")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ON),
        ({"enable_thinking": False}, OFF),
        ({"enable_thinking": True}, ON),
        ({"chat_template_kwargs": {"enable_thinking": False}}, OFF),
        ({"thinking_budget": 5}, Thinking(True, 5)),
        ({"thinking_token_budget": 0}, Thinking(True, 0)),
        ({"thinking_budget": 0, "enable_thinking": False}, OFF),
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "minimal"}, Thinking(True, 512)),
        ({"reasoning_effort": "low"}, Thinking(True, 2048)),
        ({"reasoning_effort": "medium"}, Thinking(True, 8192)),
        ({"reasoning_effort": "high"}, ON),
        ({"reasoning_effort": "high", "thinking_budget": 9}, Thinking(True, 9)),
        ({"reasoning": {"effort": "none"}}, OFF),
        ({"reasoning": {"max_tokens": 7}}, Thinking(True, 7)),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "adaptive"}}, ON),
        ({"thinking": {"type": "enabled", "budget_tokens": 8}}, Thinking(True, 8)),
        ({"enable_thinking": True, "thinking_budget": 3, "reasoning": {}}, Thinking(True, 3)),
    ],
)
def test_each_dialect_says_the_same(fields, expected):
    assert resolve(**fields) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": True, "reasoning_effort": "none"},
        {"enable_thinking": False, "thinking_budget": 5},
        {"thinking_budget": 5, "thinking_token_budget": 6},
        {"reasoning_effort": "low", "thinking_budget": 5},
        {"enable_thinking": True, "thinking": {"type": "disabled"}},
    ],
)
def test_contradiction_names_both(fields):
    with pytest.raises(InvalidRequest) as caught:
        resolve(**fields)
    one, other = fields
    assert caught.value.code == "contradictory_thinking"
    assert f"`{one}" in caught.value.message and f"`{other}" in caught.value.message
    assert caught.value.param.split(".")[0] in fields


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Why? /no_think", OFF),
        ("Why? /think", ON),
        ("/no_think why?", ON),
        ([image_part(), {"type": "text", "text": "Why? /no_think\n"}], OFF),
        ([{"type": "text", "text": "Why? /no_think"}, image_part()], ON),
    ],
)
def test_soft_switch_ends_the_last_user_turn(content, expected):
    assert resolve(content=content) == expected


def test_soft_switch_of_an_earlier_turn_is_over():
    turns = [("user", "a /no_think"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert resolve(messages=messages) == ON


def test_soft_switch_contradicts_a_parameter():
    with pytest.raises(InvalidRequest, match=r"enable_thinking.*messages"):
        resolve(content="Why? /no_think", enable_thinking=True)


@pytest.mark.parametrize("kind", ["instruct", "thinking"])
def test_soft_switch_is_text_for_other_checkpoints(kind):
    assert resolve(kind, "Why? /no_think") == resolve(kind)
    assert resolve(kind, "Why? /think") == resolve(kind)


def test_thinking_checkpoint_can_be_told_not_to():
    assert resolve("thinking", enable_thinking=False) == OFF


@pytest.mark.parametrize("fields", [{"enable_thinking": True}, {"reasoning_effort": "low"}])
def test_instruct_checkpoint_refuses_to_think_and_says_why(fields):
    with pytest.raises(InvalidRequest, match="instruct checkpoint") as caught:
        resolve("instruct", **fields)
    assert caught.value.param == next(iter(fields))


@pytest.mark.parametrize("fields", [{}, {"enable_thinking": False}, {"thinking_budget": 0}])
def test_instruct_checkpoint_takes_what_asks_for_no_thinking(fields):
    assert resolve("instruct", **fields) == OFF
