"""JSON Lines of the ShareGPT and of the OpenAI form."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image

from benchmarks.workload.error import WorkloadError
from benchmarks.workload.options import WorkloadOptions
from benchmarks.workload.turn import Conversation
from benchmarks.workload.workload import Workload

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


def make_dataset(folder: Path, *lines: Any) -> Workload:
    path = folder / "data.jsonl"
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    )
    for number, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / name)
    (folder / "clip.mp4").write_bytes(b"a video")
    return Workload(WorkloadOptions(dataset=path))


def messages(conversation: Conversation, turn: int = -1) -> list[dict[str, Any]]:
    return [orjson.loads(message) for message in conversation[turn].messages]


def outline(content: str | list[dict[str, Any]]) -> list[str]:
    """Texts as they are, URLs by their beginning."""
    if isinstance(content, str):
        return [content]
    return [
        part["text"] if part["type"] == "text" else part[part["type"]]["url"][:15]
        for part in content
    ]


def test_every_human_message_of_sharegpt_is_a_turn(tmp_path: Path) -> None:
    line = {
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A dog."},
            {"from": "human", "value": "And here <image>?"},
        ],
        "image": ["a.png", "b.png"],
    }
    conversation = make_dataset(tmp_path, line).conversation(0)
    assert [turn.num_images for turn in conversation] == [1, 2]
    assert conversation[0].messages == conversation[1].messages[:2]
    system, first, answer, second = messages(conversation)
    assert system == {"role": "system", "content": "Be kind."}
    assert (first["role"], outline(first["content"])) == (
        "user",
        ["data:image/png;", "What is it?"],
    )
    assert answer == {"role": "assistant", "content": "A dog."}
    assert outline(second["content"]) == ["And here", "data:image/png;", "?"]
    urls = [message["content"][part]["image_url"] for message, part in ((first, 0), (second, 1))]
    assert urls[0] != urls[1]


def test_media_without_a_placeholder_come_first(tmp_path: Path) -> None:
    line = {
        "conversations": [{"from": "user", "value": "Compare <image>"}],
        "images": ["a.png", "b.png"],
        "video": "clip.mp4",
    }
    conversation = make_dataset(tmp_path, line).conversation(0)
    assert (conversation[0].num_images, conversation[0].num_videos) == (2, 1)
    (message,) = messages(conversation)
    assert outline(message["content"]) == [
        "data:image/png;",
        "data:video/mp4;",
        "Compare",
        "data:image/png;",
    ]


def test_text_alone_is_left_as_it_is(tmp_path: Path) -> None:
    line = {"conversations": [{"from": "human", "value": " Hello\n"}]}
    assert messages(make_dataset(tmp_path, line).conversation(0)) == [
        {"role": "user", "content": " Hello\n"}
    ]


def test_files_of_the_openai_form_become_data_urls_and_others_stay(tmp_path: Path) -> None:
    urls = ["a.png", str(tmp_path / "a.png"), f"file://{tmp_path}/a.png"]
    remote = ["https://example.com/a.png", "data:image/png;base64,AAAA"]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls + remote]
    content[0]["image_url"]["detail"] = "low"  # type: ignore[index]
    line = {"messages": [{"role": "user", "content": content}], "max_tokens": 7}
    conversation = make_dataset(tmp_path, line).conversation(0)
    assert (conversation[0].num_images, conversation[0].max_tokens) == (5, 7)
    (message,) = messages(conversation)
    sent = [part["image_url"] for part in message["content"]]
    assert sent[0].pop("detail") == "low"
    assert sent[0] == sent[1] == sent[2]
    assert sent[0]["url"].startswith("data:image/png;base64,iVBOR")
    assert [image["url"] for image in sent[3:]] == remote


def test_a_part_of_another_type_stays_as_it_is(tmp_path: Path) -> None:
    part = {"type": "audio_url", "audio_url": "a.wav"}
    line = {"messages": [{"role": "user", "content": [part]}]}
    (message,) = messages(make_dataset(tmp_path, line).conversation(0))
    assert message["content"] == [part]


def test_every_line_comes_once_in_a_pass_and_empty_ones_never(tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(6)]
    workload = make_dataset(tmp_path, *lines[:3], b"", b"  ", *lines[3:], b"")
    assert workload.num_distinct == 6
    said = [messages(workload.conversation(index))[0]["content"] for index in range(12)]
    assert sorted(said[:6]) == sorted(said[6:]) == ["0", "1", "2", "3", "4", "5"]
    assert said[:6] != said[6:]
    assert workload.conversation(3) == make_dataset(
        tmp_path, *lines[:3], b"", b"  ", *lines[3:]
    ).conversation(3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "neither a list `messages` nor"),
        ({"prompt": "Hello"}, "neither a list `messages` nor"),
        ({"messages": []}, "no message of a user"),
        ({"messages": [{"content": "Hello"}]}, "without a `role`"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "without a `type`"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "`image_url` without a `url`",
        ),
        ({**HELLO, "max_tokens": 0}, "`max_tokens`"),
        ({"conversations": [{"from": "dog", "value": "Bow"}]}, "`from`"),
        ({"conversations": [{"from": "human"}]}, "without `value`"),
        ({"conversations": [{"from": "human", "value": "<image>"}]}, "more placeholders"),
        (
            {"conversations": [{"from": "human", "value": ""}], "image": "c.png"},
            r"c\.png does not exist",
        ),
        (
            {"conversations": [{"from": "human", "value": ""}], "image": "clip.mp4"},
            "is not an image",
        ),
        ({"conversations": [{"from": "human", "value": ""}], "video": "a.png"}, "suffix"),
        ({"conversations": [{"from": "human", "value": ""}], "image": 3}, "list of paths"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(
    tmp_path: Path, line: Any, reason: str
) -> None:
    with pytest.raises(WorkloadError, match=rf"data\.jsonl, line 2: .*{reason}"):
        make_dataset(tmp_path, HELLO, line)


def test_a_missing_and_an_empty_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="does not exist"):
        Workload(WorkloadOptions(dataset=tmp_path / "none.jsonl"))
    with pytest.raises(WorkloadError, match="is empty"):
        make_dataset(tmp_path, b"")
