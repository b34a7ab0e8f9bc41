"""What the API keys may still ask for: requests and tokens a minute, and requests at once."""

import math
import time
from collections.abc import Callable, Iterable

from server.access.client import ClientLimits
from server.access.token_bucket import TokenBucket
from server.errors import RateLimited

_CODE = "rate_limit_exceeded"  # OpenAI's
_BUSY_RETRY_AFTER_S = 1


class Allowance:
    """Of one key, in one process."""

    def __init__(self, limits: ClientLimits, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._num_running = 0
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self.set_limits(limits)

    def set_limits(self, limits: ClientLimits) -> None:
        """What has been used stays used."""
        self._max_concurrent = limits.max_concurrent
        self._requests = self._fit(self._requests, limits.requests_per_minute)
        self._tokens = self._fit(self._tokens, limits.tokens_per_minute)

    def enter(self) -> None:
        """Take a place for a request; one that is refused uses nothing up. Raises: RateLimited."""
        self._check_places()
        self._check_requests()
        self._check_tokens()
        if self._requests is not None:
            self._requests.take(1)
        self._num_running += 1

    def leave(self) -> None:
        """Give the place back."""
        self._num_running -= 1

    def take_prompt(self, num_tokens: int) -> None:
        """The tokens of a prompt, before anything is generated. Raises: RateLimited."""
        bucket = self._tokens
        if bucket is None:
            return
        if num_tokens > bucket.level:
            raise RateLimited(
                f"the prompt has {num_tokens} tokens: {max(0, int(bucket.level))} are left to this "
                f"API key of {bucket.per_minute} tokens per minute",
                _CODE,
                kind="tokens",
                retry_after_s=_wait(bucket, min(num_tokens, bucket.per_minute)),
            )
        bucket.take(num_tokens)

    def take_answer(self, num_tokens: int) -> None:
        """Tokens that were generated: more than are left delay what comes next."""
        if self._tokens is not None:
            self._tokens.take(num_tokens)

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`."""
        buckets = {"requests": self._requests, "tokens": self._tokens}
        return {
            f"x-ratelimit-{name}": value
            for kind, bucket in buckets.items()
            if bucket is not None
            for name, value in (
                (f"limit-{kind}", str(bucket.per_minute)),
                (f"remaining-{kind}", str(max(0, math.floor(bucket.level)))),
                (f"reset-{kind}", format_duration(bucket.seconds_until(bucket.per_minute))),
            )
        }

    def _check_places(self) -> None:
        limit = self._max_concurrent
        if limit is not None and self._num_running >= limit:
            raise RateLimited(
                f"{limit} requests of this API key are being served already",
                _CODE,
                retry_after_s=_BUSY_RETRY_AFTER_S,
            )

    def _check_requests(self) -> None:
        bucket = self._requests
        if bucket is not None and bucket.level < 1:
            message = f"this API key has used up its {bucket.per_minute} requests per minute"
            raise RateLimited(message, _CODE, retry_after_s=_wait(bucket, 1))

    def _check_tokens(self) -> None:
        bucket = self._tokens
        if bucket is not None and bucket.level < 1:
            message = f"this API key has used up its {bucket.per_minute} tokens per minute"
            raise RateLimited(message, _CODE, kind="tokens", retry_after_s=_wait(bucket, 1))

    def _fit(self, bucket: TokenBucket | None, per_minute: int | None) -> TokenBucket | None:
        if per_minute is None:
            return None
        if bucket is None:
            return TokenBucket(per_minute, self._clock)
        if bucket.per_minute != per_minute:
            bucket.resize(per_minute)
        return bucket


class Allowances:
    """Of all keys: as many as the file has, and no more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_hash: dict[str, tuple[ClientLimits, Allowance]] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, key_hash: str, limits: ClientLimits) -> Allowance:
        known, allowance = self._by_hash.get(key_hash, (limits, None))
        if allowance is None:
            allowance = Allowance(limits, self._clock)
        elif known != limits:
            allowance.set_limits(limits)
        self._by_hash[key_hash] = (limits, allowance)
        return allowance

    def keep(self, key_hashes: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(key_hashes)
        self._by_hash = {key: value for key, value in self._by_hash.items() if key in kept}


def format_duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `7s`, `1m2s`; rounded up."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _wait(bucket: TokenBucket, level: float) -> int:
    """Whole seconds until so much is there."""
    return max(1, math.ceil(bucket.seconds_until(level)))
