"""Methods added to vLLM's worker (`worker_extension_cls`), called through `collective_rpc`."""

from typing import Any


class WorkerExtension:
    """Mixed into the worker class by vLLM."""

    model_runner: Any

    def describe_model(self) -> str:
        """Module and name of the class that really runs, the proof that it is ours."""
        model_class = type(self.model_runner.get_model())
        return f"{model_class.__module__}.{model_class.__qualname__}"
