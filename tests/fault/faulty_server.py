"""`qwen3vl-serve` with two faults that only a request asks for; what they raise quotes the request.

A `user` of `FAIL_HERE` fails in the server, a `seed` of `FAIL_IN_ENGINE` in the engine's step.
"""

import sys
from typing import Any

from vllm.v1.executor.uniproc_executor import UniProcExecutor

from server.cli import main
from server.preparation import Preparation

FAIL_HERE = "fail-here"
FAIL_IN_ENGINE = 666


def install() -> None:
    """The engine is forked from this process, so it has the second one too."""
    prepare, execute_model = Preparation.prepare, UniProcExecutor.execute_model

    async def failing_prepare(self: Any, ask: Any, **options: Any) -> Any:
        if ask.request.user == FAIL_HERE:
            raise ValueError(f"cannot prepare {ask.request!r}")
        return await prepare(self, ask, **options)

    def failing_execute(self: Any, scheduler_output: Any, *args: Any, **options: Any) -> Any:
        for request in scheduler_output.scheduled_new_reqs:
            if request.sampling_params.seed == FAIL_IN_ENGINE:
                raise ValueError(f"cannot compute {request!r}")
        return execute_model(self, scheduler_output, *args, **options)

    Preparation.prepare = failing_prepare  # type: ignore[method-assign]
    UniProcExecutor.execute_model = failing_execute


if __name__ == "__main__":
    install()
    sys.exit(main())
