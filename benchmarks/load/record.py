"""What was measured of one request."""

from dataclasses import dataclass
from typing import Literal

ErrorKind = Literal[
    "connect",  # no connection
    "timeout",  # the request's time limit
    "http_4xx",
    "http_5xx",
    "disconnect",  # the connection ended before the answer did
    "error_event",  # an error in the stream
    "malformed",  # not the events of chat completions
    "no_tokens",  # an answer without any token
]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """All times are in seconds since the start of the run; those that never came are None.

    Attributes:
        target, step: who was asked, and under which load (their positions in the result).
        block: servers that are compared are asked in turn, a block of requests each.
        conversation, turn: which request of the workload this is.
        scheduled_s: when it was due. Latencies count from here, so a client or server that falls
            behind does not hide it.
        sent_s: when sending began.
        first_s, last_s: the first and the last chunk with tokens, reasoning or answer.
        first_answer_s: the first chunk of the answer itself.
        end_s: the last byte, or the error.
        gaps_s: between the chunks with tokens.
        prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens: as the server counts.
        num_bytes: of the request's body.
        status: of HTTP; None without a response.
    """

    target: int
    step: int
    block: int
    conversation: int
    turn: int
    num_images: int
    num_videos: int
    num_bytes: int
    scheduled_s: float
    sent_s: float
    first_s: float | None
    first_answer_s: float | None
    last_s: float | None
    end_s: float
    gaps_s: tuple[float, ...]
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    status: int | None
    error: ErrorKind | None
    message: str | None

    @property
    def is_ok(self) -> bool:
        return self.error is None

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token."""
        return None if self.first_s is None else self.first_s - self.scheduled_s

    @property
    def ttfa_s(self) -> float | None:
        """Time to the first token of the answer, behind the reasoning."""
        return None if self.first_answer_s is None else self.first_answer_s - self.scheduled_s

    @property
    def e2e_s(self) -> float:
        return self.end_s - self.scheduled_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first."""
        if self.first_s is None or self.last_s is None or self.completion_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.completion_tokens - 1)
