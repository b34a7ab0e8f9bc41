"""An agent that looks at a screen: twelve turns with a new screenshot, each with one question more.

    python -m benchmarks.agent --stock-python STOCK/bin/python

Every request resends the whole history, as chat clients do. Measured: seconds to the first token of
the request with the new screenshot, and of the one after it, which has nothing new but text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.arguments import parse_arguments
from benchmarks.cache import temporary_cache
from benchmarks.client import assistant, user
from benchmarks.pair import Pair, running_pair
from benchmarks.pictures import encode, image_part, screenshot
from benchmarks.report import Aim, Report, Sample, median_row

_NUM_TURNS = 12
_NUM_SESSIONS = 3
_WIDTH, _HEIGHT = 1920, 1080
_REPORTED_TURNS = (1, 6, 12)
_MAX_GROWTH = 1.1  # of what does not grow, with noise


@dataclass(frozen=True, slots=True)
class Turn:
    picture: Sample
    follow_up: Sample


def main() -> None:
    arguments = parse_arguments(__doc__)
    with temporary_cache() as cache, running_pair(arguments, cache) as pair:
        run_session(pair, seed=0, num_turns=1)  # warm-up
        sessions = [run_session(pair, seed, _NUM_TURNS) for seed in range(1, _NUM_SESSIONS + 1)]
    report(sessions).print()


def run_session(pair: Pair, seed: int, num_turns: int) -> list[Turn]:
    """One conversation with screenshots that no other seed has; the answers are made up."""
    messages: list[Any] = []
    turns = []
    for index in range(num_turns):
        picture = encode(screenshot(seed * _NUM_TURNS + index, _WIDTH, _HEIGHT), "PNG")
        messages.append(user(image_part(picture, "PNG"), "What is on the screen now?"))
        new = pair.first_token(messages)
        messages += [assistant("Some windows."), user("Which one should be closed?")]
        turns.append(Turn(new, pair.first_token(messages)))
        messages.append(assistant("The one in front."))
    return turns


def report(sessions: Sequence[Sequence[Turn]]) -> Report:
    pictures = [
        median_row(f"new picture, turn {n}", [s[n - 1].picture for s in sessions], "s")
        for n in _REPORTED_TURNS
    ]
    follow_ups = [
        median_row(f"follow-up, turn {n}", [s[n - 1].follow_up for s in sessions], "s")
        for n in _REPORTED_TURNS
    ]
    growth = pictures[-1].ours / pictures[0].ours
    aims = [
        Aim("the twelfth follow-up, times sooner", follow_ups[-1].ratio, 3),
        Aim("ours: new picture, twelfth / first", growth, _MAX_GROWTH, at_least=False),
    ]
    return Report("agent", [*pictures, *follow_ups], aims)


if __name__ == "__main__":
    main()
