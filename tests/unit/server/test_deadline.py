import asyncio

import pytest
from starlette.datastructures import Headers

from server.deadline import Deadline
from server.errors import DeadlineExceeded, InvalidRequest


def begin(given: str | None = None, max_s: float = 60) -> Deadline:
    return Deadline.begin(Headers({} if given is None else {"X-Request-Timeout": given}), max_s)


@pytest.mark.parametrize(
    ("given", "timeout_s"), [(None, 60), ("5", 5), ("0.25", 0.25), ("061", 60), ("999999999", 60)]
)
async def test_the_client_may_ask_for_less(given: str | None, timeout_s: float) -> None:
    assert begin(given).timeout_s == timeout_s


@pytest.mark.parametrize(
    "given",
    ["", "0", "0.0", "-1", "+1", "1e3", "inf", "nan", "5s", "1,5", ".5", "²", "1" * 99],
)
async def test_a_malformed_header_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="x-request-timeout"):
        begin(given)


async def test_all_blocks_share_the_time() -> None:
    deadline = begin("0.01")
    async with deadline.limit():
        pass
    with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
        async with deadline.limit():
            await asyncio.Event().wait()
    with pytest.raises(DeadlineExceeded):
        async with deadline.limit():
            await asyncio.Event().wait()


async def test_a_timeout_of_the_work_itself_is_passed_on() -> None:
    with pytest.raises(TimeoutError):
        async with begin().limit():
            raise TimeoutError
