"""From an example to token ids, positions and pixels, by the functions that the server uses."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from demo.preprocessing import image_size, video_plan
from demo.skills import Example, Question
from demo.world import COLORS, SHAPES, Clip, Picture
from multimodal.items import LoadedMedia, VisualItem
from multimodal.layout import VisionTokens, expand_prompt
from multimodal.mrope import mrope_positions
from multimodal.patches import patchify
from multimodal.resize import resize_rgb

PATCH, MERGE, FRAMES = 16, 2, 2  # pixels, patches of a token's side, frames of an item
GLYPHS = (None, *SHAPES, *"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_GLYPH_IDS = {glyph: index for index, glyph in enumerate(GLYPHS)}
_NAMES = [(color, kind) for color in COLORS for kind in SHAPES]
COVERS = (None, *_NAMES)
STEPS, NO_BOX = 20, -1
_COVER_IDS = {name: index for index, name in enumerate(COVERS)}


@dataclass(frozen=True, slots=True)
class SeenItem:
    """One visual item with what it shows, for the head that training adds to the vision tower.

    Attributes:
        patches: uint8, (grid_h * grid_w, 2 * 16 * 16 * 3), see `multimodal.items.VisualItem`.
        glyphs: int64, (grid_h * grid_w,), which shape or character has its centre in each patch.
        covers: int64, (grid_h * grid_w / 4,), which coloured shape covers each token's middle.
        boxes: int64, (grid_h * grid_w / 4, 4), left, top, right, bottom of the shape that has its
            centre in the token, in `STEPS`ths of the picture; `NO_BOX` where there is none.
        places: int64, (grid_h * grid_w / 4, 2), the token's own middle in that unit, (x, y).
    """

    item: VisualItem
    patches: torch.Tensor
    glyphs: np.ndarray
    covers: np.ndarray
    boxes: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, slots=True)
class Sample:
    """Several conversations about the same media, which they share as a prefix.

    Attributes:
        token_ids: int64, (L,), the prefix and then each conversation's rest.
        positions: int64, (3, L), M-RoPE positions.
        branches: int64, (L,), 0 for the prefix, k for the k-th conversation.
        weights: float32, (L,), of the loss of predicting each token; 0 where it is given.
        skills: name of each conversation's skill, with `+think` where the answer thinks first.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    branches: np.ndarray
    weights: np.ndarray
    skills: tuple[str, ...]
    items: tuple[SeenItem, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a conversation is put: with a system message, numbered pictures, the question first."""

    has_system: bool = False
    is_numbered: bool = False
    text_first: bool = False

    @classmethod
    def drawn(cls, rng: random.Random, example: Example) -> Self:
        has_media = bool(example.media)
        return cls(
            has_system=rng.random() < 0.15,
            is_numbered=len(example.media) > 1 and rng.random() < 0.3,
            text_first=has_media and rng.random() < 0.12,
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of tokens: ids (n,), positions (3, n), weights (n,)."""

    token_ids: np.ndarray
    positions: np.ndarray
    weights: np.ndarray


class SampleMaker:
    """Renders examples with the tokenizer and chat template of the checkpoint."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._vision_tokens = VisionTokens(
            *tokenizer.convert_tokens_to_ids(
                ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
            )
        )

    def make(self, rng: random.Random, example: Example, max_tokens: int) -> Sample:
        """Each question with and without thinking; as many as fit into `max_tokens`, at least one.

        Where the question comes before the media there is one conversation: nothing is shared.
        """
        loaded = [load_media(media) for media in example.media]
        parts = [part for part, _ in loaded]
        layout = Layout.drawn(rng, example)
        questions = [varied(rng, example, q) for q in example.questions for _ in range(2)]
        pieces: list[_Piece] = []
        skills: list[str] = []
        first = rng.randrange(2)
        for index, question in enumerate(questions[:1] if layout.text_first else questions):
            is_thinking = index % 2 == first
            prompt, answer = self.render(example, question, layout, is_thinking)
            prefix, rest = self._tokens(prompt, answer, parts)
            pieces = pieces or [prefix]
            num_tokens = sum(len(piece.token_ids) for piece in pieces)
            if skills and num_tokens + len(rest.token_ids) > max_tokens:
                break
            pieces.append(rest)
            skills.append(question.skill + ("+think" if is_thinking else ""))
        branches = [np.full(len(piece.token_ids), k) for k, piece in enumerate(pieces)]
        return Sample(
            token_ids=np.concatenate([piece.token_ids for piece in pieces]),
            positions=np.concatenate([piece.positions for piece in pieces], axis=1),
            branches=np.concatenate(branches),
            weights=np.concatenate([piece.weights for piece in pieces]),
            skills=tuple(skills),
            items=tuple(item for _, items in loaded for item in items),
        )

    def render(
        self, example: Example, question: Question, layout: Layout, is_thinking: bool
    ) -> tuple[str, str]:
        """The prompt, and the answer that follows it."""
        messages = conversation(example, question, layout)
        prompt = self._tokenizer.apply_chat_template(
            messages,
            tools=list(example.tools) or None,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=is_thinking,
        )
        answer = f"{question.answer}<|im_end|>"
        if is_thinking:
            answer = f"<think>\n{question.thought}\n</think>\n\n{answer}"
        return prompt, answer

    def _tokens(
        self, prompt: str, answer: str, media: Sequence[LoadedMedia]
    ) -> tuple[_Piece, _Piece]:
        """One conversation, cut behind its last visual item."""
        expanded = expand_prompt(
            self.encode(prompt), media, self._vision_tokens, self.encode, MERGE
        )
        answer_ids = self.encode(answer)
        token_ids = np.array(expanded.token_ids + tuple(answer_ids), dtype=np.int64)
        grids = [
            (placed.offset, placed.item.grid_h // MERGE, placed.item.grid_w // MERGE)
            for placed in expanded.items
        ]
        positions = mrope_positions(len(token_ids), grids)[0].numpy()
        weights = np.zeros(len(token_ids), dtype=np.float32)
        weights[-len(answer_ids) :] = len(answer_ids) ** -0.5
        end = expanded.items[-1].offset + expanded.items[-1].num_tokens + 1 if grids else 0
        return (
            _Piece(token_ids[:end], positions[:, :end], weights[:end]),
            _Piece(token_ids[end:], positions[:, end:], weights[end:]),
        )

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def conversation(
    example: Example, question: Question, layout: Layout | None = None
) -> list[dict[str, Any]]:
    """The messages of one question."""
    layout = layout or Layout()
    messages: list[dict[str, Any]] = [dict(message) for message in example.opening]
    if layout.has_system:
        messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
    turns = [turn for pair in question.earlier for turn in pair] + [question.text]
    content: list[dict[str, Any]] = []
    for index, media in enumerate(example.media):
        if layout.is_numbered:
            content.append({"type": "text", "text": f"Picture {index + 1}: "})
        content.append({"type": "video" if isinstance(media, Clip) else "image"})
    text = {"type": "text", "text": turns[0]}
    content = [text, *content] if layout.text_first else [*content, text]
    messages.append({"role": example.role, "content": content if example.media else turns[0]})
    for index, turn in enumerate(turns[1:]):
        messages.append({"role": "assistant" if index % 2 == 0 else "user", "content": turn})
    return messages


def varied(rng: random.Random, example: Example, question: Question) -> Question:
    """Sometimes less tidy, sometimes after another question about the same media."""
    if example.role != "user":
        return question
    text = question.text
    if rng.random() < 0.2:
        text = text.replace("picture", rng.choice(["image", "photo"]))
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    if rng.random() < 0.15 and not text[:2].isupper():
        text = text[0].lower() + text[1:]
    others = [other for other in example.questions if other.text != question.text]
    if others and rng.random() < 0.25:
        other = rng.choice(others)
        return replace(question, text=text, earlier=((other.text, other.answer),))
    return replace(question, text=text)


def load_media(media: Picture | Clip) -> tuple[LoadedMedia, list[SeenItem]]:
    """What the server makes of a picture or clip, with what each patch shows."""
    if isinstance(media, Picture):
        height, width = image_size(media.height, media.width)
        seen = [_seen_item("image", [media], height, width)]
        return LoadedMedia("image", (seen[0].item,)), seen
    first = media.frames[0]
    plan = video_plan(len(media.frames), media.fps, first.height, first.width)
    pictures = [media.frames[index] for index in plan.indices]
    seen = [
        _seen_item("video", pictures[i : i + FRAMES], plan.height, plan.width)
        for i in range(0, len(pictures), FRAMES)
    ]
    items = tuple(item.item for item in seen)
    return LoadedMedia("video", items, plan.timestamps), seen


def _seen_item(modality: Any, pictures: Sequence[Picture], height: int, width: int) -> SeenItem:
    frames: list[torch.Tensor] = []
    for index, picture in enumerate(pictures):
        is_same = index > 0 and picture == pictures[index - 1]
        frames.append(frames[-1] if is_same else resize_rgb(picture.draw().copy(), height, width))
    patches = patchify(frames, PATCH, MERGE)
    item = VisualItem(modality, "", height // PATCH, width // PATCH, patches)
    if len(frames) == 1:
        patches = torch.cat([patches, patches], dim=1)
    return SeenItem(item, patches, *_labels(pictures[0], height // PATCH, width // PATCH))


def _labels(
    picture: Picture, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The labels of a picture of `rows` x `columns` patches, in the order of `SeenItem`."""
    glyphs = np.zeros((rows, columns), dtype=np.int64)
    token_rows, token_columns = rows // MERGE, columns // MERGE
    covers = np.zeros((token_rows, token_columns), dtype=np.int64)
    boxes = np.full((token_rows, token_columns, 4), NO_BOX)
    scale_x, scale_y = columns / picture.width, rows / picture.height

    def patch_at(x: float, y: float) -> tuple[int, int]:
        return min(int(y * scale_y), rows - 1), min(int(x * scale_x), columns - 1)

    for shape in picture.shapes:
        row, column = patch_at(shape.x, shape.y)
        glyphs[row, column] = _GLYPH_IDS[shape.kind]
        left, top, right, bottom = shape.box
        across = slice(_first(left * scale_x), _first(right * scale_x))
        down = slice(_first(top * scale_y), _first(bottom * scale_y))
        covers[down, across] = _COVER_IDS[(shape.color, shape.kind)]
        sides = np.divide(shape.box, (picture.width, picture.height) * 2)
        boxes[row // MERGE, column // MERGE] = (sides * STEPS).round().clip(0, STEPS)
    if picture.text is not None:
        for x, character in zip(picture.text.centers(), picture.text.content, strict=True):
            glyphs[patch_at(x, picture.text.y)] = _GLYPH_IDS[character]
    blocks = glyphs.reshape(token_rows, MERGE, token_columns, MERGE).transpose(0, 2, 1, 3)
    y, x = (np.indices((token_rows, token_columns)) + 0.5) * STEPS
    places = np.stack([x / token_columns, y / token_rows], axis=-1).astype(np.int64)
    return blocks.reshape(-1), covers.reshape(-1), boxes.reshape(-1, 4), places.reshape(-1, 2)


def _first(patches: float) -> int:
    """The first token whose middle lies at or behind this many patches."""
    return max(0, int(np.ceil(patches / MERGE - 0.5)))
