"""The drawn workloads: each makes the conversation that a number stands for."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.workload.clip import SAMPLED_FPS
from benchmarks.workload.media_source import MediaSource
from benchmarks.workload.message import History, Part, assistant, frames_part, text_part, user
from benchmarks.workload.numbering import Numbering
from benchmarks.workload.options import WorkloadName, WorkloadOptions
from benchmarks.workload.turn import Conversation, Turn
from benchmarks.workload.words import unique_text

_ANSWER = "I have looked at it and noted what matters. Please go on."


@dataclass(frozen=True, slots=True)
class Material:
    """What the conversations of one workload are made of.

    Attributes:
        images, videos: which of the media the workload takes.
    """

    name: WorkloadName
    options: WorkloadOptions
    media: MediaSource
    images: Numbering
    videos: Numbering

    def generator(self, index: int) -> random.Random:
        """For texts and lengths."""
        return random.Random(f"{self.options.seed}/{self.name}/{index}")

    def question(self, generator: random.Random, question: str) -> Part:
        num_tokens = self.options.input_tokens.draw(generator)
        return text_part(unique_text(generator, num_tokens, question))


@dataclass(frozen=True, slots=True)
class Recipe:
    """A workload.

    Attributes:
        build: the conversation of a number. The same bytes whenever it is called.
        num_images, num_videos: media that each conversation takes.
    """

    build: Callable[[Material, int], Conversation]
    num_images: Callable[[WorkloadOptions], int] = lambda _: 0
    num_videos: int = 0


def _num_new(index: int, reuse: float) -> int:
    """Images that the requests of `reuse` before number `index` have brought."""
    return max(min(index, 1), math.ceil(index * (1 - reuse)))


def _chat(material: Material, index: int) -> Conversation:
    generator = material.generator(index)
    return _dialogue(material, generator, [[material.question(generator, "Explain this.")]])


def _images(material: Material, index: int) -> Conversation:
    generator = material.generator(index)
    numbers = range(material.options.images_per_request)
    images = [material.media.image(material.images.number(index, number)) for number in numbers]
    question = material.question(generator, "What is to be seen?")
    return _dialogue(material, generator, [[*images, question]])


def _reuse(material: Material, index: int) -> Conversation:
    """New images come evenly; a repeat is of any earlier one, as likely each. The text comes first.

    So the KV cache of the prefix ends before the image, and only the vision cache can help.
    """
    generator = material.generator(index)
    number, reuse = _num_new(index, material.options.reuse), material.options.reuse
    if _num_new(index + 1, reuse) == number:
        number = generator.randrange(number)
    image = material.media.image(material.images.number(number))
    question = material.question(generator, "What is to be seen?")
    return _dialogue(material, generator, [[question, image]])


def _agent(material: Material, index: int) -> Conversation:
    generator = material.generator(index)
    contents = (
        [
            material.media.screenshot(material.images.number(index, turn)),
            material.question(generator, "What is to be done next?"),
        ]
        for turn in range(material.options.turns)
    )
    return _dialogue(material, generator, contents)


def _documents(material: Material, index: int) -> Conversation:
    """The first question comes with all pages, which every later one is asked after."""
    generator = material.generator(index)
    numbers = range(material.options.pages)
    pages = [material.media.page(material.images.number(index, number)) for number in numbers]
    questions = [
        material.question(generator, "What does the document say about it?")
        for _ in range(material.options.questions)
    ]
    first, *later = questions
    return _dialogue(material, generator, [[*pages, first], *([question] for question in later)])


def _video(material: Material, index: int) -> Conversation:
    generator = material.generator(index)
    video = material.media.video(material.videos.number(index))
    question = material.question(generator, "What happens in it?")
    return _dialogue(material, generator, [[video, question]])


def _windows(material: Material, index: int) -> Conversation:
    """Every turn is about a window of the same clip and has no history."""
    generator = material.generator(index)
    frames = material.media.frames(material.videos.number(index))
    turns: list[Turn] = []
    for window in _sliding(frames, material.options):
        question = material.question(generator, "What happens here?")
        turns += _dialogue(material, generator, [[frames_part(window), question]])
    return tuple(turns)


def _mlperf(material: Material, index: int) -> Conversation:
    """A product's picture and text, both new: nothing that any cache could use."""
    generator = material.generator(index)
    image = material.media.image(material.images.number(index))
    question = "What are the category, the brand and the condition of this product? Answer in JSON."
    return _dialogue(material, generator, [[image, material.question(generator, question)]])


def _dialogue(
    material: Material, generator: random.Random, contents: Iterable[Sequence[Part]]
) -> Conversation:
    """A turn for each content, with all that came before it and made-up answers in between."""
    history = History()
    turns: list[Turn] = []
    for content in contents:
        if turns:
            history.add(assistant(_ANSWER))
        history.add(user(*content))
        turns.append(history.turn(material.options.output_tokens.draw(generator)))
    return tuple(turns)


def _sliding(frames: Sequence[bytes], options: WorkloadOptions) -> Iterable[Sequence[bytes]]:
    """Windows that are full; the whole clip where it is shorter than one."""
    num_frames = round(options.window_seconds * SAMPLED_FPS)
    stride = round(options.stride_seconds * SAMPLED_FPS)
    for start in range(0, max(1, len(frames) - num_frames + 1), stride):
        yield frames[start : start + num_frames]


RECIPES: dict[WorkloadName, Recipe] = {
    "chat": Recipe(_chat),
    "images": Recipe(_images, lambda options: options.images_per_request),
    "reuse": Recipe(_reuse, lambda _: 1),
    "agent": Recipe(_agent, lambda options: options.turns),
    "documents": Recipe(_documents, lambda options: options.pages),
    "video": Recipe(_video, num_videos=1),
    "windows": Recipe(_windows, num_videos=1),
    "mlperf": Recipe(_mlperf, lambda _: 1),
}
