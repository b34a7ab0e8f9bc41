"""The order in which vLLM admits requests: clients take turns.

With vLLM's own, a client that has sent a thousand requests is served a thousand times before
the one that has come next.
"""

from collections import deque
from typing import Any, NamedTuple

CLIENT_ID = "client_id"  # the key in `SamplingParams.extra_args`
_MANY_CLIENTS = 1000


class Turn(NamedTuple):
    """What a request has as its `priority`: `own` is what its client has asked for."""

    number: int
    own: int


class FairClients:
    """Start-time fair queueing of requests; mixed into vLLM's schedulers, whose policy must be
    `priority`.

    Each request gets the number of a turn when it arrives: the one behind the last of its client,
    or the present one, if that is later. The present turn is the latest that has been admitted, so
    a client that has waited for nothing is behind one request of each of the others, whatever they
    have sent. A client's own priorities change the order of its own requests only.
    """

    # from vLLM
    requests: dict[str, Any]
    waiting: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._present = 0
        self._admitted: dict[str, int] = {}  # by client: its latest turn that has come
        self._lines: dict[str, deque[tuple[str, int]]] = {}  # the same: ids and turns to come
        self._with_priorities: set[str] = set()

    def add_request(self, request: Any) -> None:
        if request.request_id not in self.requests:
            client_id, own = client_of(request), request.priority
            number = self._next_turn(client_id)
            self._lines.setdefault(client_id, deque()).append((request.request_id, number))
            request.priority = Turn(number, own)
            if own != 0:
                self._with_priorities.add(client_id)
            if client_id in self._with_priorities:
                self._sort(client_id, request)
        super().add_request(request)  # type: ignore[misc]

    def schedule(self, throttle_prefills: bool = False) -> Any:
        output = super().schedule(throttle_prefills)  # type: ignore[misc]
        for admitted in output.scheduled_new_reqs:
            request = self.requests[admitted.req_id]
            client_id, number = client_of(request), request.priority.number
            self._admitted[client_id] = max(number, self._admitted.get(client_id, 0))
            self._present = max(number, self._present)
        if len(self._admitted) > _MANY_CLIENTS:
            self._forget_clients()
        return output

    def _next_turn(self, client_id: str) -> int:
        line = self._lines.get(client_id, ())
        while line and line[-1][0] not in self.requests:  # what was given up has had no turn
            line.pop()
        while line and line[0][0] not in self.requests:
            line.popleft()
        last = max(self._admitted.get(client_id, -1), line[-1][1] if line else -1)
        return max(self._present, last + 1)

    def _sort(self, client_id: str, request: Any) -> None:
        """Hand the turns of a client's waiting requests out anew."""
        waiting = {other for other in self.waiting if client_of(other) == client_id}
        self.waiting.remove_requests(waiting)
        numbers = sorted(other.priority.number for other in (*waiting, request))
        ordered = sorted((*waiting, request), key=lambda r: (r.priority.own, r.arrival_time))
        for number, other in zip(numbers, ordered, strict=True):
            other.priority = Turn(number, other.priority.own)
        self.waiting.prepend_requests(waiting)

    def _forget_clients(self) -> None:
        """Those without requests, whose next turn would be the present one."""
        live = {client_of(request) for request in self.requests.values()}
        self._admitted = {
            client_id: number
            for client_id, number in self._admitted.items()
            if client_id in live or number >= self._present
        }
        self._lines = {name: line for name, line in self._lines.items() if name in live}
        self._with_priorities &= live


def client_of(request: Any) -> str:
    """See `Client.id`."""
    params = request.sampling_params
    extra = params.extra_args if params is not None else None
    return str(extra.get(CLIENT_ID, "")) if extra else ""
