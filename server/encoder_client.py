"""The encoder process, as a language process uses it."""

import asyncio
import logging
from collections.abc import Sequence

import httpx

from multimodal.items import VisualItem
from server.encode_request import BODY_TYPE, ENCODE_PATH, encode_query
from server.errors import EncoderUnavailable

_CONNECT_TIMEOUT_S = 2.0
_ANSWER_TIMEOUT_S = 60.0  # one item waits for those before it
_MAX_PARALLEL = 16
_RETRY_AFTER_S: Sequence[float] = (0.1, 0.5)  # when the encoder cannot be reached
_OVERLOAD_RETRY_AFTER_S: Sequence[float] = (0.1, 0.2, 0.5, *[1.0] * 20)  # when it has no room
_MAX_LOGGED_CHARS = 500

logger = logging.getLogger(__name__)


class _Busy(EncoderUnavailable):
    pass


class _Unreachable(EncoderUnavailable):
    pass


class EncoderClient:
    """To be used from one event loop.

    Args:
        url: http://HOST:PORT of the encoder process.
        namespace: of the vision cache that both processes have.
        api_key: one of the encoder's, if it asks for any.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        api_key: str | None = None,
    ) -> None:
        self._namespace = namespace
        self._places = asyncio.Semaphore(_MAX_PARALLEL)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={} if api_key is None else {"authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(_ANSWER_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=_MAX_PARALLEL),
            trust_env=False,
            transport=transport,
        )

    async def encode(self, item: VisualItem) -> None:
        """Have an item encoded; its embedding is in the vision cache then.

        Args:
            item: with its patches.
        Raises: EncoderUnavailable, after a few attempts if that may help.
        """
        assert item.patches is not None
        body = item.patches.numpy().tobytes()
        waits = {_Busy: iter(_OVERLOAD_RETRY_AFTER_S), _Unreachable: iter(_RETRY_AFTER_S)}
        while True:
            try:
                async with self._places:
                    return await self._post(item, body)
            except (_Busy, _Unreachable) as error:
                wait_s = next(waits[type(error)], None)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(self, item: VisualItem, body: bytes) -> None:
        query = encode_query(item, self._namespace)
        headers = {"content-type": BODY_TYPE}
        try:
            response = await self._http.post(
                ENCODE_PATH, params=query, content=body, headers=headers
            )
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise EncoderUnavailable("the encoder does not answer", "encoder_timeout") from error
        except httpx.HTTPError as error:
            logger.warning("the encoder process cannot be reached: %r", error)
            raise _Unreachable("the encoder cannot be reached", "encoder_unreachable") from error
        if response.status_code == 503:
            raise _Busy("the encoder takes no further items now", "encoder_busy")
        if response.status_code != 200:
            text = response.text[:_MAX_LOGGED_CHARS]
            logger.error("the encoder process refuses an item: %d %s", response.status_code, text)
            raise EncoderUnavailable("the encoder refuses the item", "encoder_refuses")
