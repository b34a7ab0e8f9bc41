"""Conversations from a JSON Lines file."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.workload.dataset_conversation import read_conversation
from benchmarks.workload.error import WorkloadError
from benchmarks.workload.int_range import IntRange
from benchmarks.workload.media_file import image_file_part, image_mime, video_file_part, video_mime
from benchmarks.workload.message import History, Message, Part, parts_of
from benchmarks.workload.shuffle import shuffled_position
from benchmarks.workload.turn import Conversation

_REMOTE = ("http:", "https:", "data:")


class Dataset:
    """Every line once, in an order that the seed gives, before any comes again.

    Every message of a user is a turn, whose history is what stands before it in the line. Files
    are named relative to the dataset's folder, absolutely, or as `file://`; they become data URLs.

    Args:
        output_tokens: for `max_tokens` where a line has none.
    Raises: WorkloadError, with the line's number, if a line or a file that it names cannot be used.
    """

    def __init__(self, path: Path, seed: int, output_tokens: IntRange) -> None:
        self._path = path
        self._seed = seed
        self._output_tokens = output_tokens
        self._offsets = self._check()

    @property
    def num_distinct(self) -> int:
        return len(self._offsets)

    def conversation(self, index: int) -> Conversation:
        with self._path.open("rb") as file:
            file.seek(self._offsets[shuffled_position(self._seed, index, self.num_distinct)])
            messages, max_tokens = read_conversation(file.readline())
        generator = random.Random(f"{self._seed}/dataset/{index}")
        history = History()
        turns = []
        for message in messages:
            history.add(self._embedded(message))
            if message["role"] == "user":
                turns.append(history.turn(max_tokens or self._output_tokens.draw(generator)))
        return tuple(turns)

    def _check(self) -> Sequence[int]:
        """Where the lines start that are not empty."""
        if not self._path.is_file():
            raise WorkloadError(f"dataset {self._path} does not exist")
        offsets, offset = [], 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._check_line(number, line)
                    offsets.append(offset)
                offset += len(line)
        if not offsets:
            raise WorkloadError(f"dataset {self._path} is empty")
        return offsets

    def _check_line(self, number: int, line: bytes) -> None:
        try:
            for message in read_conversation(line)[0]:
                for kind, path, _ in self._files(message):
                    (image_mime if kind == "image" else video_mime)(path)
        except WorkloadError as error:
            raise WorkloadError(f"{self._path}, line {number}: {error}") from None

    def _embedded(self, message: Message) -> Message:
        for kind, path, part in self._files(message):
            url = f"{kind}_url"
            read = image_file_part if kind == "image" else video_file_part
            part[url] |= read(path)[url]
        return message

    def _files(self, message: Message) -> Iterator[tuple[str, Path, Part]]:
        """Each file of a message: `image` or `video`, its path, and the part that names it."""
        for part in parts_of(message):
            if part["type"] in ("image_url", "video_url"):
                url = part[part["type"]]["url"]
                if not url.lower().startswith(_REMOTE):
                    yield part["type"].removesuffix("_url"), self._file(url), part

    def _file(self, url: str) -> Path:
        path = unquote(urlsplit(url).path) if url.startswith("file:") else url
        return self._path.parent / path
