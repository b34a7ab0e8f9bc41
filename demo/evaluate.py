"""Ask a running server the held-out questions; print the share of right answers per skill."""

import argparse
import io
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from openai import OpenAI, omit
from PIL import Image

from demo.ask import data_url_part
from demo.skills import OTHERS, SINGLE_PICTURE, Example, Question, answer_is_right, tool_call
from demo.world import Clip, Picture

HELD_OUT_SEED = 20_261_122  # training draws from other seeds
# Skills that belong together, and the share of right answers that is aimed at.
GROUPS: dict[str, tuple[float, tuple[str, ...]]] = {
    "one picture": (
        0.95,
        ("read_number", "read_word", "color", "shape", "describe", "where"),
    ),
    "counting": (0.90, ("count",)),
    "boxes (IoU 0.5)": (0.85, ("box",)),
    "several pictures": (
        0.90,
        ("more", "count_in_nth", "total", "find", "nth", "larger", "read_nth"),
    ),
    "video: what, in which order": (0.90, ("order", "first_or_last", "happens", "moves")),
    "video: when": (0.90, ("when",)),
    "words only": (0.90, ("chat",)),
    "tool calls": (0.90, ("tool",)),
    "random letters": (0.0, ("read_letters",)),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One question, asked with or without thinking."""

    example: Example
    question: Question
    is_thinking: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the server answered."""

    case: Case
    answer: str
    reasoning: str

    @property
    def is_right(self) -> bool:
        return answer_is_right(self.case.question, self.answer)


def held_out_cases(per_skill: int, seed: int = HELD_OUT_SEED) -> list[Case]:
    """`per_skill` questions of every skill, each asked both ways; the same for the same seed."""
    rng = random.Random(f"held-out/{seed}")
    skills = [skill for _, members in GROUPS.values() for skill in members]
    wanted = dict.fromkeys(skills, per_skill)
    cases: list[Case] = []
    makers = [*SINGLE_PICTURE, *OTHERS]
    while any(wanted.values()):
        for maker in makers:
            example = maker(rng, False)
            for question in example.questions:
                if wanted.get(question.skill, 0) > 0:
                    wanted[question.skill] -= 1
                    cases += [Case(example, question, is_thinking) for is_thinking in (False, True)]
    return cases


def ask(client: OpenAI, model: str, case: Case) -> Outcome:
    """Send one case and wait for its answer."""
    tools: Any = list(case.example.tools)
    completion: Any = client.chat.completions.create(
        model=model,
        messages=list(request_messages(case.example, case.question)),
        tools=tools or omit,
        max_tokens=160,
        temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": case.is_thinking}},
    )
    message = completion.choices[0].message
    calls = [tool_call_text(call.function) for call in message.tool_calls or []]
    answer = "\n".join([message.content or "", *calls]).strip()
    return Outcome(case, answer, getattr(message, "reasoning_content", None) or "")


def tool_call_text(function: Any) -> str:
    """A call as the model wrote it."""
    return tool_call(function.name, json.loads(function.arguments))


def request_messages(example: Example, question: Question) -> Iterator[Any]:
    """The conversation in OpenAI's form."""
    parts = [media_part(media) for media in example.media]
    yield {"role": "user", "content": [*parts, {"type": "text", "text": question.text}]}


def media_part(media: Picture | Clip) -> dict[str, Any]:
    """A picture as PNG, a clip as MP4, inside a data URL."""
    if isinstance(media, Picture):
        return data_url_part("image/png", png(media))
    return data_url_part("video/mp4", mp4(media))


@lru_cache(maxsize=64)
def png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.draw()).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=64)
def mp4(clip: Clip) -> bytes:
    """MPEG-4; odd sides grow by one pixel, which the codec wants even."""
    first = clip.frames[0]
    size = first.width + first.width % 2, first.height + first.height % 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), clip.fps, size)
        for picture in clip.frames:
            padding = ((0, size[1] - picture.height), (0, size[0] - picture.width), (0, 0))
            writer.write(cv2.cvtColor(np.pad(picture.draw(), padding, "edge"), cv2.COLOR_RGB2BGR))
        writer.release()
        return path.read_bytes()


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lines: one per group with its aim, and below it one per skill."""
    hits: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    for outcome in outcomes:
        hits[outcome.case.question.skill, outcome.case.is_thinking].append(outcome.is_right)
    yield f"{'skill':30} {'asked':>5} {'direct':>8} {'thinking':>8} {'aim':>5}"
    for group, (aim, skills) in GROUPS.items():
        ways = [[hit for skill in skills for hit in hits[skill, way]] for way in (False, True)]
        shares = f"{_share(ways[0])} {_share(ways[1])} {f'{aim:5.0%}' if aim else ''}"
        yield f"{group:30} {len(ways[0]):5} {shares}".rstrip()
        for skill in skills:
            direct, thinking = hits[skill, False], hits[skill, True]
            yield f"  {skill:28} {len(direct):5} {_share(direct)} {_share(thinking)}"


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits) / len(hits):8.1%}" if hits else f"{'-':>8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument(
        "--per-skill", type=int, default=100, help="questions, each asked both ways"
    )
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--parallel", type=int, default=16, help="requests at a time")
    parser.add_argument(
        "--show-wrong", type=int, default=0, help="wrong answers to print per skill"
    )
    arguments = parser.parse_args()
    client = OpenAI(base_url=arguments.base_url, api_key="unused")
    model = client.models.list().data[0].id
    cases = held_out_cases(arguments.per_skill, arguments.seed)
    started = time.monotonic()
    with ThreadPoolExecutor(arguments.parallel) as pool:
        outcomes = list(pool.map(lambda case: ask(client, model, case), cases))
    print(f"{len(cases)} questions in {time.monotonic() - started:.0f} s, seed {arguments.seed}")
    print("\n".join(table(outcomes)))
    _show_wrong(outcomes, arguments.show_wrong)


def _show_wrong(outcomes: Sequence[Outcome], per_skill: int) -> None:
    shown: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        question = outcome.case.question
        if not outcome.is_right and shown[question.skill] < per_skill:
            shown[question.skill] += 1
            print(
                f"\n{question.skill}: {question.text}\n  should be {question.answer!r}\n"
                f"  but was   {outcome.answer!r}"
            )
            if outcome.reasoning:
                print(f"  thought   {outcome.reasoning!r} instead of {question.thought!r}")


if __name__ == "__main__":
    main()
