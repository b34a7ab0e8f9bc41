from collections.abc import Callable

import pytest

from server.access.allowance import Allowance, Allowances, format_duration
from server.access.client import ClientLimits
from server.access.token_bucket import TokenBucket
from server.errors import RateLimited


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Callable[..., Allowance]:
    return lambda **limits: Allowance(ClientLimits(**limits), clock)


def refusal(action: Callable[[], None]) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        action()
    assert caught.value.code == "rate_limit_exceeded"
    return caught.value


def test_a_bucket_fills_evenly_and_never_over(clock: Clock) -> None:
    bucket = TokenBucket(60, clock)
    bucket.take(50)
    clock.now_s += 20
    assert bucket.level == pytest.approx(30)
    clock.now_s += 1000
    assert bucket.level == 60


def test_a_debt_comes_back_first(clock: Clock) -> None:
    bucket = TokenBucket(60, clock)
    bucket.take(90)
    assert bucket.level == -30
    assert bucket.seconds_until(1) == pytest.approx(31)


def test_requests_come_back_one_by_one(make: Callable[..., Allowance], clock: Clock) -> None:
    allowance = make(requests_per_minute=3)
    for _ in range(3):
        allowance.enter()
    error = refusal(allowance.enter)
    assert (error.kind, error.retry_after_s) == ("requests", 20)
    clock.now_s += 19
    assert refusal(allowance.enter).retry_after_s == 1
    clock.now_s += 1.01
    allowance.enter()
    refusal(allowance.enter)


def test_a_refused_request_uses_nothing_up(make: Callable[..., Allowance], clock: Clock) -> None:
    allowance = make(requests_per_minute=2, max_concurrent=1)
    allowance.enter()
    for _ in range(5):
        refusal(allowance.enter)
    allowance.leave()
    assert allowance.headers()["x-ratelimit-remaining-requests"] == "1"
    allowance.enter()


def test_places_are_given_back(make: Callable[..., Allowance]) -> None:
    allowance = make(max_concurrent=2)
    allowance.enter()
    allowance.enter()
    assert refusal(allowance.enter).retry_after_s == 1
    allowance.leave()
    allowance.enter()


def test_a_prompt_must_fit_into_what_is_left(make: Callable[..., Allowance], clock: Clock) -> None:
    allowance = make(tokens_per_minute=600)
    allowance.take_prompt(400)
    error = refusal(lambda: allowance.take_prompt(300))
    assert (error.kind, error.retry_after_s) == ("tokens", 10)
    assert "300 tokens" in error.message and "200 are left" in error.message
    clock.now_s += 10.01
    allowance.take_prompt(300)


def test_a_prompt_that_can_never_fit_is_told_the_longest_wait(
    make: Callable[..., Allowance],
) -> None:
    allowance = make(tokens_per_minute=600)
    allowance.take_prompt(60)
    assert refusal(lambda: allowance.take_prompt(601)).retry_after_s == 6


def test_answers_may_exceed_and_delay_what_comes_next(
    make: Callable[..., Allowance], clock: Clock
) -> None:
    allowance = make(tokens_per_minute=60)
    allowance.enter()
    allowance.take_prompt(50)
    allowance.take_answer(40)
    error = refusal(allowance.enter)
    assert (error.kind, error.retry_after_s) == ("tokens", 31)
    assert allowance.headers()["x-ratelimit-remaining-tokens"] == "0"
    clock.now_s += 31.01
    allowance.enter()


def test_headers_tell_limit_rest_and_reset(make: Callable[..., Allowance]) -> None:
    allowance = make(requests_per_minute=60, tokens_per_minute=1000)
    allowance.enter()
    allowance.take_prompt(250)
    assert allowance.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "750",
        "x-ratelimit-reset-tokens": "15s",
    }
    assert make(max_concurrent=1).headers() == {}


def test_without_limits_nothing_is_refused(make: Callable[..., Allowance]) -> None:
    allowance = make()
    for _ in range(1000):
        allowance.enter()
        allowance.take_prompt(10**9)
        allowance.take_answer(10**9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0171, "18ms"), (1, "1s"), (6.2, "7s"), (62, "1m2s"), (3600, "60m0s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_new_limits_keep_what_was_used(clock: Clock) -> None:
    allowances = Allowances(clock)
    old = ClientLimits(requests_per_minute=10, max_concurrent=5)
    first = allowances.find("h", old)
    for _ in range(4):
        first.enter()
    again = allowances.find("h", ClientLimits(requests_per_minute=5, max_concurrent=5))
    assert again is first
    assert again.headers()["x-ratelimit-remaining-requests"] == "1"
    assert allowances.find("h", ClientLimits()).headers() == {}


def test_keys_that_are_gone_are_forgotten(clock: Clock) -> None:
    allowances = Allowances(clock)
    for number in range(100):
        allowances.find(str(number), ClientLimits())
    kept = allowances.find("7", ClientLimits())
    allowances.keep(["7", "never seen"])
    assert len(allowances) == 1
    assert allowances.find("7", ClientLimits()) is kept
