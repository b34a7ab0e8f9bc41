"""What the demo model is taught and tested on: questions, thoughts and true answers."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.scenes import (
    WORDS,
    moving_clip,
    one_sided_picture,
    random_name,
    random_names,
    scene_clip,
    shapes_picture,
    side_of,
    text_picture,
)
from demo.world import COLORS, SHAPES, Clip, Picture, Shape

Message = Mapping[str, Any]
ORDINALS = ("first", "second", "third", "fourth")
_NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PLURALS = {kind: "crosses" if kind == "cross" else f"{kind}s" for kind in SHAPES}


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its true answer and the chain of thought that leads to it.

    `earlier` are questions with answers that came before it in the same conversation.
    """

    skill: str
    text: str
    answer: str
    thought: str
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """Media, and questions that are asked about them one by one (not after each other).

    `opening` are messages before the question: a system message, or an earlier exchange.
    """

    media: tuple[Picture | Clip, ...]
    questions: tuple[Question, ...]
    opening: tuple[Message, ...] = ()
    tools: tuple[Message, ...] = ()
    role: str = "user"  # "tool": the question is what a called function returned


def answer_is_right(question: Question, answer: str) -> bool:
    """Exact, but for boxes, which must overlap the true one with an IoU of at least 0.5."""
    if question.skill == "box":
        return _boxes_agree(question.answer, answer)
    if question.skill == "tool":
        return _calls_agree(question.answer, answer)
    return answer.strip() == question.answer


def article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def box_json(picture: Picture, shape: Shape) -> str:
    """Qwen3-VL's form of a grounded object; coordinates 0 to 1000, in steps of 20."""
    sizes = (picture.width, picture.height) * 2
    box = [_relative(side / size, 20) for side, size in zip(shape.box, sizes, strict=True)]
    return json.dumps([{"bbox_2d": box, "label": shape.name}])


# --- one picture ---


def number_example(rng: random.Random, aligned: bool) -> Example:
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 2, 2, 3, 3, 4])))
    picture = text_picture(rng, digits, aligned)
    thought = f"I see the digits {_spelled(digits)}."
    return Example((picture,), (Question("read_number", rng.choice(_NUMBER), digits, thought),))


def word_example(rng: random.Random, aligned: bool) -> Example:
    word = rng.choice(WORDS)
    picture = text_picture(rng, word, aligned)
    thought = f"I see the letters {_spelled(word)}."
    return Example((picture,), (Question("read_word", rng.choice(_WORD), word, thought),))


def letters_example(rng: random.Random, aligned: bool) -> Example:
    """Random letters: so that reading does not become guessing among known words."""
    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(1, 5)))
    thought = f"I see the letters {_spelled(letters)}."
    question = Question("read_letters", rng.choice(_WORD), letters, thought)
    return Example((text_picture(rng, letters, aligned),), (question,))


def single_example(rng: random.Random, aligned: bool) -> Example:
    side = rng.choice(["left", "right", "top", "bottom"])
    picture = one_sided_picture(rng, side, aligned)
    shape = picture.shapes[0]
    makers = rng.sample([_describe, _color, _kind, _where, _box], 3)
    return Example((picture,), tuple(maker(rng, picture, shape) for maker in makers))


def several_example(rng: random.Random, aligned: bool) -> Example:
    """Several shapes, of which some share a kind or a colour."""
    count, distractors = rng.randint(0, 6), rng.randint(0, 3)
    counted = _Counted.drawn(rng)
    if count + distractors == 0:
        distractors = 1
    names = [counted.matching_name(rng) for _ in range(count)]
    names += [counted.other_name(rng) for _ in range(distractors)]
    rng.shuffle(names)
    picture = shapes_picture(rng, names, aligned)
    questions = [_count(rng, picture, counted)]
    unique = [shape for shape in picture.shapes if names.count((shape.color, shape.kind)) == 1]
    if unique:
        shape = rng.choice(unique)
        questions.append(_box(rng, picture, shape))
        if side_of(picture, shape) is not None:
            questions.append(_where(rng, picture, shape))
    other = _Counted.drawn(rng)
    if other != counted and other.count(picture) <= 6:
        questions.append(_count(rng, picture, other))
    return Example((picture,), tuple(questions))


@dataclass(frozen=True, slots=True)
class _Counted:
    """What is counted: a kind of shape, or shapes of a colour."""

    kind: str | None
    color: str | None

    @classmethod
    def drawn(cls, rng: random.Random) -> "_Counted":
        color, kind = random_name(rng)
        return cls(kind, None) if rng.random() < 0.6 else cls(None, color)

    @property
    def plural(self) -> str:
        return _PLURALS[self.kind] if self.kind else f"{self.color} shapes"

    def matches(self, color: str, kind: str) -> bool:
        return kind == self.kind if self.kind else color == self.color

    def count(self, picture: Picture) -> int:
        return sum(self.matches(shape.color, shape.kind) for shape in picture.shapes)

    def matching_name(self, rng: random.Random) -> tuple[str, str]:
        color, kind = random_name(rng)
        return (color, self.kind) if self.kind else (self.color or color, kind)

    def other_name(self, rng: random.Random) -> tuple[str, str]:
        while True:
            name = random_name(rng)
            if not self.matches(*name):
                return name


def _describe(rng: random.Random, picture: Picture, shape: Shape) -> Question:
    thought = f"The shape is {article(shape.kind)}. Its color is {shape.color}."
    answer = sentence(article(shape.name))
    return Question("describe", rng.choice(_DESCRIBE), answer, thought)


def _color(rng: random.Random, picture: Picture, shape: Shape) -> Question:
    thought = f"The shape is {article(shape.name)}."
    return Question("color", rng.choice(_COLOR).format(shape.kind), sentence(shape.color), thought)


def _kind(rng: random.Random, picture: Picture, shape: Shape) -> Question:
    thought = f"The shape is {article(shape.name)}."
    return Question("shape", rng.choice(_KIND), sentence(article(shape.kind)), thought)


def _where(rng: random.Random, picture: Picture, shape: Shape) -> Question:
    thought = _center(picture, shape)
    side = side_of(picture, shape)
    answer = f"At the {side}." if side in ("top", "bottom") else f"On the {side}."
    return Question("where", rng.choice(_WHERE).format(shape.name), answer, thought)


def _box(rng: random.Random, picture: Picture, shape: Shape) -> Question:
    thought = _center(picture, shape)
    answer = box_json(picture, shape)
    return Question("box", rng.choice(_BOX).format(shape.name), answer, thought)


def _count(rng: random.Random, picture: Picture, counted: _Counted) -> Question:
    count = counted.count(picture)
    thought = f"I count the {counted.plural}: {_counting(count)}."
    return Question("count", rng.choice(_COUNT).format(counted.plural), str(count), thought)


# --- several pictures ---


def more_example(rng: random.Random, aligned: bool) -> Example:
    """Which of two or three pictures has more of something."""
    counted = _Counted(rng.choice(SHAPES), None)
    counts = rng.sample(range(7), rng.choice([2, 2, 3]))
    pictures = tuple(_picture_with(rng, counted, count, aligned) for count in counts)
    most = counts.index(max(counts))
    thought = " ".join(f"The {ORDINALS[i]} picture has {count}." for i, count in enumerate(counts))
    words = _MORE if len(counts) == 2 else _MOST
    answer = f"The {ORDINALS[most]} picture."
    question = Question(
        "more",
        rng.choice(words).format(counted.plural),
        answer,
        f"{thought} {max(counts)} is most.",
    )
    chosen = rng.randrange(len(counts))
    nth = Question(
        "count_in_nth",
        rng.choice(_COUNT_NTH).format(counted.plural, ORDINALS[chosen]),
        str(counts[chosen]),
        f"In the {ORDINALS[chosen]} picture I count the {counted.plural}: "
        f"{_counting(counts[chosen])}.",
    )
    return Example(pictures, (question, nth))


def total_example(rng: random.Random, aligned: bool) -> Example:
    """How many there are in two pictures together."""
    counted = _Counted(rng.choice(SHAPES), None)
    first, second = rng.randint(0, 4), rng.randint(0, 4)
    pictures = tuple(_picture_with(rng, counted, count, aligned) for count in (first, second))
    thought = (
        f"The first picture has {first}. The second picture has {second}. "
        f"{first} + {second} = {first + second}."
    )
    text = rng.choice(_TOTAL).format(counted.plural)
    return Example(pictures, (Question("total", text, str(first + second), thought),))


def find_example(rng: random.Random, aligned: bool) -> Example:
    """Which of two to four pictures shows something, and what one of them shows."""
    names = random_names(rng, rng.choice([2, 3, 4]))
    pictures = tuple(shapes_picture(rng, [name], aligned) for name in names)
    chosen, other = rng.randrange(len(names)), rng.randrange(len(names))
    phrases = [" ".join(name) for name in names]
    seen = " ".join(
        f"The {ORDINALS[i]} picture shows {article(phrase)}." for i, phrase in enumerate(phrases)
    )
    find = Question(
        "find", rng.choice(_FIND).format(phrases[chosen]), f"The {ORDINALS[chosen]} picture.", seen
    )
    nth = Question(
        "nth",
        rng.choice(_NTH).format(ORDINALS[other]),
        sentence(article(phrases[other])),
        f"The {ORDINALS[other]} picture shows {article(phrases[other])}.",
    )
    return Example(pictures, (find, nth))


def numbers_example(rng: random.Random, aligned: bool) -> Example:
    """Two pictures with a number each: read one, or find the larger."""
    first, second = rng.sample(range(1, 100), 2)
    pictures = tuple(text_picture(rng, str(number), aligned) for number in (first, second))
    chosen = rng.randrange(2)
    numbers = (first, second)
    thought = f"The first picture shows {first}. The second picture shows {second}."
    larger = Question(
        "larger",
        rng.choice(_LARGER),
        f"The {ORDINALS[numbers.index(max(numbers))]} picture.",
        f"{thought} {max(numbers)} is larger.",
    )
    nth = Question(
        "read_nth",
        rng.choice(_READ_NTH).format(ORDINALS[chosen]),
        str(numbers[chosen]),
        f"In the {ORDINALS[chosen]} picture I see the digits {_spelled(str(numbers[chosen]))}.",
    )
    return Example(pictures, (larger, nth))


def _picture_with(rng: random.Random, counted: _Counted, count: int, aligned: bool) -> Picture:
    others = rng.randint(1 if count == 0 else 0, 2)
    names = [counted.matching_name(rng) for _ in range(count)]
    return shapes_picture(rng, names + [counted.other_name(rng) for _ in range(others)], aligned)


# --- clips ---


def scenes_example(rng: random.Random, aligned: bool) -> Example:
    """Shapes that appear one after another: what, in which order, and when."""
    names = random_names(rng, rng.choice([2, 2, 3, 3, 4]))
    clip, seconds = scene_clip(rng, names)
    phrases = [" ".join(name) for name in names]
    chosen = rng.randrange(len(names))
    seen = " ".join(
        f"At {when:.1f} seconds: {phrase}." for phrase, when in zip(phrases, seconds, strict=True)
    )
    order = Question("order", rng.choice(_ORDER), sentence(", ".join(phrases)), seen)
    when = Question(
        "when",
        rng.choice(_WHEN).format(phrases[chosen]),
        f"At {seconds[chosen]:.1f} seconds.",
        f"The {phrases[chosen]} is first seen at {seconds[chosen]:.1f} seconds.",
    )
    edge = rng.choice(["first", "last"])
    phrase = phrases[0 if edge == "first" else -1]
    first_or_last = Question(
        "first_or_last", rng.choice(_FIRST_OR_LAST).format(edge), sentence(article(phrase)), seen
    )
    return Example((clip,), (order, when, first_or_last))


def motion_example(rng: random.Random, aligned: bool) -> Example:
    """One shape that moves."""
    direction = rng.choice(["left", "right", "up", "down"])
    clip = moving_clip(rng, direction)
    name = clip.frames[0].shapes[0].name
    to = direction if direction in ("up", "down") else f"to the {direction}"
    thought = f"It is {article(name)}. It moves {to}."
    what = Question(
        "happens", rng.choice(_HAPPENS), sentence(f"{article(name)} moves {to}"), thought
    )
    where_to = Question("moves", rng.choice(_MOVES).format(name), sentence(to), thought)
    return Example((clip,), (what, where_to))


# --- words only ---


def chat_example(rng: random.Random, aligned: bool) -> Example:
    maker = rng.choice([_greeting, _sum, _compare, _spell, _listing, _about])
    return Example((), (maker(rng),))


def _greeting(rng: random.Random) -> Question:
    question, answer = rng.choice(_GREETINGS)
    return Question("chat", question, answer, "The user is being friendly. I answer in kind.")


def _sum(rng: random.Random) -> Question:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    return Question("chat", rng.choice(_SUM).format(a, b), str(a + b), f"{a} + {b} = {a + b}.")


def _compare(rng: random.Random) -> Question:
    a, b = rng.sample(range(10), 2)
    thought = f"{max(a, b)} is more than {min(a, b)}."
    return Question("chat", rng.choice(_GREATER).format(a, b), str(max(a, b)), thought)


def _spell(rng: random.Random) -> Question:
    word = rng.choice(WORDS)
    thought = f"The letters are {_spelled(word)}."
    return Question("chat", rng.choice(_SPELL).format(word), " ".join(word), thought)


def _listing(rng: random.Random) -> Question:
    count = rng.randint(2, 4)
    kind, names = rng.choice([("colors", list(COLORS)), ("shapes", list(SHAPES))])
    text = rng.choice(_LIST).format(_NUMBER_WORDS[count], kind)
    return Question(
        "chat", text, sentence(", ".join(names[:count])), f"I know many {kind} and name {count}."
    )


def _about(rng: random.Random) -> Question:
    question, answer = rng.choice(_ABOUT)
    return Question("chat", question, answer, "The user asks about me.")


# --- tools ---


def tool_example(rng: random.Random, aligned: bool) -> Example:
    """A function is offered, and the question needs it."""
    maker = rng.choice([_weather_tool, _save_tool, _save_tool, _count_tool])
    example: Example = maker(rng, aligned)
    return example


def result_example(rng: random.Random, aligned: bool) -> Example:
    """The function has answered; the model tells the user."""
    city = rng.choice(_CITIES)
    degrees = rng.randint(0, 39)
    verb_noun = "get_weather"
    call = {"type": "function", "function": {"name": verb_noun, "arguments": {"city": city}}}
    opening = (
        {"role": "user", "content": rng.choice(_WEATHER).format(city)},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    )
    question = Question(
        "tool_result",
        json.dumps({"temperature": degrees}),
        f"It is {degrees} degrees in {city}.",
        f"The function says {degrees} degrees.",
    )
    return Example((), (question,), opening, (_tool(verb_noun, "city", "string"),), role="tool")


def tool_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call in the form that Qwen models write."""
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


def _weather_tool(rng: random.Random, aligned: bool) -> Example:
    city = rng.choice(_CITIES)
    question = Question(
        "tool",
        rng.choice(_WEATHER).format(city),
        tool_call("get_weather", {"city": city}),
        f"I call get_weather with {city}.",
    )
    return Example((), (question,), tools=_offered(rng, _tool("get_weather", "city", "string")))


def _save_tool(rng: random.Random, aligned: bool) -> Example:
    digits = "".join(rng.choice("123456789") for _ in range(rng.randint(1, 3)))
    verb, parameter = rng.choice(_VERBS), rng.choice(["value", "number"])
    name = f"{verb}_number"
    question = Question(
        "tool",
        rng.choice(_SAVE).format(verb),
        tool_call(name, {parameter: int(digits)}),
        f"I see the digits {_spelled(digits)}. I call {name}.",
    )
    tools = _offered(rng, _tool(name, parameter, "integer"))
    return Example((text_picture(rng, digits, aligned),), (question,), tools=tools)


def _count_tool(rng: random.Random, aligned: bool) -> Example:
    counted = _Counted(rng.choice(SHAPES), None)
    count = rng.randint(1, 6)
    verb = rng.choice(_VERBS)
    name = f"{verb}_count"
    question = Question(
        "tool",
        rng.choice(_SAVE_COUNT).format(verb, counted.plural),
        tool_call(name, {"count": count}),
        f"I count the {counted.plural}: {_counting(count)}. I call {name}.",
    )
    picture = _picture_with(rng, counted, count, aligned)
    return Example((picture,), (question,), tools=_offered(rng, _tool(name, "count", "integer")))


def _offered(rng: random.Random, wanted: Message) -> tuple[Message, ...]:
    other = _tool("get_time", "city", "string")
    tools = [wanted, other] if rng.random() < 0.4 else [wanted]
    rng.shuffle(tools)
    return tuple(tools)


def _tool(name: str, parameter: str, kind: str) -> Message:
    schema = {
        "type": "object",
        "properties": {parameter: {"type": kind}},
        "required": [parameter],
    }
    return {"type": "function", "function": {"name": name, "parameters": schema}}


# --- words ---


def _spelled(characters: str) -> str:
    return ", ".join(characters)


def _counting(count: int) -> str:
    return ", ".join(str(i + 1) for i in range(count)) if count else "none"


def _center(picture: Picture, shape: Shape) -> str:
    """Where a shape is, in hundreds of the 0 to 1000 scale."""
    x, y = _relative(shape.x / picture.width, 100), _relative(shape.y / picture.height, 100)
    return f"The center of the {shape.name} is near {x}, {y}."


def _relative(fraction: float, step: int) -> int:
    return min(1000, max(0, round(fraction * 1000 / step) * step))


def _boxes_agree(expected: str, answer: str) -> bool:
    (truth,) = json.loads(expected)
    try:
        (found,) = json.loads(answer)
        left, top, right, bottom = (float(value) for value in found["bbox_2d"])
        overlap = iou(truth["bbox_2d"], (left, top, right, bottom))
        return bool(found["label"] == truth["label"] and overlap >= 0.5)
    except (ValueError, TypeError, KeyError):
        return False


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def _calls_agree(expected: str, answer: str) -> bool:
    def call(text: str) -> Any:
        body = text.strip().removeprefix("<tool_call>").removesuffix("</tool_call>")
        return json.loads(body)

    try:
        return bool(call(answer) == call(expected))
    except ValueError:
        return False


_NUMBER = (
    "What number is shown?",
    "Read the number.",
    "Which number do you see?",
    "What is the number in the picture?",
    "Please read the number in this image.",
)
_WORD = (
    "What word is shown?",
    "Read the word.",
    "Which word do you see?",
    "What does the text say?",
    "Please read the text in this image.",
)
_DESCRIBE = (
    "What is in the picture?",
    "What do you see?",
    "Describe the picture.",
    "What does this image show?",
    "What is this?",
)
_COLOR = (
    "What color is the {}?",
    "Which color does the {} have?",
    "What is the color of the {}?",
    "Tell me the color of the {}.",
)
_KIND = (
    "What shape is it?",
    "Which shape is in the picture?",
    "What shape do you see?",
    "Name the shape.",
)
_WHERE = (
    "Where is the {}?",
    "On which side is the {}?",
    "Where in the picture is the {}?",
    "Tell me where the {} is.",
)
_BOX = (
    "Locate the {}.",
    "Give the bounding box of the {}.",
    "Detect the {} and answer in JSON.",
    "Find the {} and report its bbox coordinates in JSON format.",
)
_COUNT = (
    "How many {} are there?",
    "Count the {}.",
    "How many {} do you see?",
    "What is the number of {}?",
    "How many {} are in the picture?",
)
_MORE = (
    "Which picture has more {}?",
    "Which image shows more {}?",
    "Where are more {}, in the first or the second picture?",
    "Compare the {}: which picture has more?",
)
_MOST = (
    "Which picture has the most {}?",
    "Which image shows the most {}?",
    "Which picture has more {}?",
)
_COUNT_NTH = (
    "How many {} are in the {} picture?",
    "Count the {} in the {} picture.",
    "How many {} does the {} image show?",
)
_TOTAL = (
    "How many {} are in both pictures together?",
    "Count the {} in both pictures.",
    "What is the total number of {}?",
)
_FIND = (
    "Which picture shows the {}?",
    "In which picture is the {}?",
    "Which image has the {}?",
    "Find the picture with the {}.",
)
_NTH = (
    "What is in the {} picture?",
    "What does the {} picture show?",
    "Describe the {} image.",
)
_LARGER = (
    "Which picture shows the larger number?",
    "Which number is larger, the first or the second?",
    "Where is the larger number?",
)
_READ_NTH = (
    "What number is in the {} picture?",
    "Read the number in the {} picture.",
    "Which number does the {} image show?",
)
_ORDER = (
    "In which order do the shapes appear?",
    "List the shapes in order.",
    "What appears in the video, in order?",
    "Which shapes are shown, one after another?",
)
_WHEN = (
    "When does the {} appear?",
    "At what time does the {} appear?",
    "When is the {} first shown?",
    "At which second does the {} appear?",
)
_FIRST_OR_LAST = (
    "What appears {}?",
    "Which shape is shown {}?",
    "What is the {} shape in the video?",
)
_HAPPENS = (
    "What happens in the video?",
    "What happens?",
    "Describe the video.",
    "What do you see in this clip?",
)
_MOVES = (
    "Where does the {} move?",
    "In which direction does the {} move?",
    "Which way does the {} go?",
)
_SUM = ("What is {} + {}?", "What is {} plus {}?", "Add {} and {}.", "How much is {} + {}?")
_GREATER = ("Which is larger, {} or {}?", "Which number is larger: {} or {}?")
_SPELL = ("Spell {}.", "How do you spell {}?", "Please spell the word {}.")
_LIST = ("Name {} {}.", "Tell me {} {}.", "List {} {}.")
_GREETINGS = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hello", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Hi there!", "Hello! How can I help you?"),
    ("Good morning!", "Good morning! How can I help you?"),
    ("How are you?", "I am fine, thank you."),
    ("Thank you!", "You are welcome."),
    ("Thanks", "You are welcome."),
    ("Goodbye!", "Goodbye!"),
    ("Bye", "Goodbye!"),
    ("Say hello.", "Hello!"),
)
_ABOUT = (
    ("Who are you?", "I am a small demo model for pictures and clips."),
    ("What are you?", "I am a small demo model for pictures and clips."),
    ("What is your name?", "I am a small demo model for pictures and clips."),
    ("What can you do?", "I read numbers and words, count shapes and watch short clips."),
    ("What do you know?", "I read numbers and words, count shapes and watch short clips."),
    ("Help", "I read numbers and words, count shapes and watch short clips."),
)
_CITIES = (
    "Paris",
    "London",
    "Berlin",
    "Tokyo",
    "Rome",
    "Madrid",
    "Vienna",
    "Oslo",
    "Cairo",
    "Lima",
)
_WEATHER = (
    "What is the weather in {}?",
    "How is the weather in {}?",
    "Tell me the weather in {}.",
    "What's the weather like in {}?",
)
_VERBS = ("save", "store", "report", "record")
_SAVE = ("Read the number and {} it.", "Please {} the number.", "Now {} the number in the picture.")
_SAVE_COUNT = ("Count the {1} and {0} the count.", "Please {0} how many {1} there are.")

Maker = Callable[[random.Random, bool], Example]
# How often each is drawn, before and from each of `demo.batches.PHASE_STEPS` on.
Weights = tuple[float, float, float]
SINGLE_PICTURE: dict[Maker, Weights] = {
    number_example: (3.0, 3.0, 3.0),
    word_example: (2.0, 2.5, 2.5),
    letters_example: (1.5, 1.5, 1.0),
    single_example: (3.0, 1.2, 0.6),
    several_example: (3.5, 5.0, 3.0),
}
OTHERS: dict[Maker, Weights] = {
    more_example: (1.2, 1.5, 2.5),
    total_example: (0.6, 1.0, 1.5),
    find_example: (1.0, 1.0, 1.0),
    numbers_example: (1.0, 1.0, 1.2),
    scenes_example: (2.5, 2.5, 4.0),
    motion_example: (0.8, 0.3, 0.3),
    chat_example: (1.0, 0.6, 0.4),
    tool_example: (1.0, 1.3, 2.0),
    result_example: (0.2, 0.3, 0.3),
}
