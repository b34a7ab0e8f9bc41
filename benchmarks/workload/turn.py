"""What a workload asks for: conversations, each a sequence of requests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One request. It is sent when the turn before it has been answered.

    Attributes:
        messages: JSON of every message of the request, history included. Encoded once: turns of a
            conversation share the objects.
        num_images: all images in `messages`, those of the history included; frames do not count.
        num_videos: as `num_images`; a list of frames is one.
        max_tokens: of the answer.
    """

    messages: tuple[bytes, ...]
    num_images: int
    num_videos: int
    max_tokens: int


# Answers in the history are made up, the same for every server that is asked.
Conversation = tuple[Turn, ...]
