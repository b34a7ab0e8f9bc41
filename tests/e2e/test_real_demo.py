"""The embedded model behind the real server: it sees, and whatever is sent wrongly shows."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from demo.evaluate import GROUPS, Case, Outcome, ask, held_out_cases
from demo.scenes import random_names, shapes_picture
from demo.skills import ORDINALS, Example, Question, article, sentence
from demo.world import COLORS, Clip, Picture, Shape
from server.settings import ThinkingSettings
from tests.e2e.real_server import MODEL_NAME, RealServer

PER_SKILL = 10
# Some ten points below what demo/README.md says of each group: few questions are asked here.
FLOORS = {
    "one picture": 0.8,
    "counting": 0.7,
    "boxes (IoU 0.5)": 0.8,
    "several pictures": 0.7,
    "video: what, in which order": 0.8,
    "video: when": 0.7,
    "words only": 0.8,
    "tool calls": 0.4,
    "random letters": 0.2,
}


@pytest.fixture(scope="module")
def server(demo: RealServer) -> RealServer:
    return demo


def ask_all(server: RealServer, cases: Sequence[Case]) -> list[Outcome]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda case: ask(server.client, MODEL_NAME, case), cases))


@pytest.fixture(scope="module")
def outcomes(server: RealServer) -> list[Outcome]:
    return ask_all(server, held_out_cases(PER_SKILL))


def share_right(outcomes: Sequence[Outcome]) -> float:
    return sum(outcome.is_right for outcome in outcomes) / len(outcomes)


@pytest.mark.parametrize("is_thinking", [False, True], ids=["direct", "thinking"])
@pytest.mark.parametrize("group", GROUPS)
def test_held_out_questions_are_answered(
    outcomes: list[Outcome], group: str, is_thinking: bool
) -> None:
    _, skills = GROUPS[group]
    found = [
        outcome
        for outcome in outcomes
        if outcome.case.question.skill in skills and outcome.case.is_thinking == is_thinking
    ]
    assert len(found) == PER_SKILL * len(skills)
    assert share_right(found) >= FLOORS[group]


def test_it_thinks_when_told_to(outcomes: list[Outcome]) -> None:
    assert all(bool(outcome.reasoning) == outcome.case.is_thinking for outcome in outcomes)


def test_it_says_that_its_weights_are_trained(server: RealServer) -> None:
    (model,) = server.http.get("/v1/models").json()["data"]
    assert not model["random_weights"]
    assert "are random" not in server.log


def pictures(seed: int) -> tuple[list[str], list[Picture]]:
    """Two names and a picture of each."""
    rng = random.Random(f"held-out/pictures/{seed}")
    names = random_names(rng, 2)
    return [" ".join(name) for name in names], [shapes_picture(rng, [n], False) for n in names]


def test_the_order_of_pictures_is_kept(server: RealServer) -> None:
    cases = []
    for seed in range(10):
        names, drawn = pictures(seed)
        for order in ([0, 1], [1, 0]):
            media = tuple(drawn[i] for i in order)
            answer = f"The {ORDINALS[order.index(0)]} picture."
            question = Question("find", f"Which picture shows the {names[0]}?", answer, "")
            cases.append(Case(Example(media, (question,)), question, is_thinking=False))
    assert share_right(ask_all(server, cases)) >= 0.9


def two_scenes(seed: int, fps: float, is_reversed: bool = False) -> tuple[list[str], Clip]:
    """Four frames of one shape, then four of another; all eight are sampled at 1 and 2 fps."""
    names = random_names(random.Random(f"held-out/clips/{seed}"), 2)
    scenes = [
        Picture(128, 128, (230, 230, 230), (Shape(kind, color, 64, 64, 36, COLORS[color]),))
        for color, kind in names
    ]
    frames = [scene for scene in scenes for _ in range(4)]
    clip = Clip(fps, tuple(reversed(frames) if is_reversed else frames))
    return [" ".join(name) for name in names], clip


def test_the_order_of_frames_is_kept(server: RealServer) -> None:
    cases = []
    for seed in range(10):
        for is_reversed in (False, True):
            names, clip = two_scenes(seed, 2.0, is_reversed)
            answer = sentence(article(names[1 if is_reversed else 0]))
            question = Question("first_or_last", "What appears first?", answer, "")
            cases.append(Case(Example((clip,), (question,)), question, is_thinking=False))
    assert share_right(ask_all(server, cases)) >= 0.9


def test_timestamps_tell_the_time(server: RealServer) -> None:
    cases = []
    for seed in range(10):
        for fps, seconds in ((2.0, "2.2"), (1.0, "4.5")):
            names, clip = two_scenes(seed, fps)
            text = f"When does the {names[1]} appear?"
            question = Question("when", text, f"At {seconds} seconds.", "")
            cases.append(Case(Example((clip,), (question,)), question, is_thinking=False))
    assert share_right(ask_all(server, cases)) >= 0.7  # frames at a fixed rate would give 0.5


def think(server: RealServer, **options: Any) -> Any:
    """What is thought and answered; drawn with a seed."""
    options = {"temperature": 1.2, "max_tokens": 300, **options}
    return server.ask("Which word is longest?", thinks=None, **options).choices[0].message


def test_a_budget_that_is_not_used_up_changes_nothing(server: RealServer) -> None:
    thoughts = set()
    for seed in range(5):
        free = think(server, seed=seed)
        bounded = think(server, seed=seed, extra_body={"thinking_budget": 250})
        assert (bounded.reasoning, bounded.content) == (free.reasoning, free.content)
        thoughts.add(free.reasoning)
    assert len(thoughts) > 1 and all(thoughts)


def test_thinking_that_is_cut_still_leads_to_an_answer(server: RealServer) -> None:
    free = think(server, seed=0)
    cut = think(server, seed=0, extra_body={"thinking_budget": 2})
    assert cut.reasoning.endswith(ThinkingSettings().early_stopping_text)
    assert cut.reasoning != free.reasoning
    assert cut.content
