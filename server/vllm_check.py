"""Whether vLLM, torch and our model can be imported: `python -m server.vllm_check` prints it.

In a process of its own, since a library built for another machine ends the process that loads it.
"""

import importlib
import json
from typing import Any

_MAX_CHARS = 200


def main() -> None:
    print(json.dumps(_describe()))


def _describe() -> dict[str, Any]:
    """`fault` is None if the model can be served."""
    found: dict[str, Any] = {"vllm": None, "torch_cuda": None, "sees_gpus": 0, "fault": None}
    try:
        import torch
        import vllm

        from multimodal.vllm_plugin import ARCHITECTURES, register

        found["vllm"] = vllm.__version__
        found["torch_cuda"] = torch.version.cuda
        found["sees_gpus"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
        register()
        for place in ARCHITECTURES.values():
            module, name = place.split(":")
            getattr(importlib.import_module(module), name)
    except Exception as error:
        reason = " ".join(str(error).split())[:_MAX_CHARS]
        found["fault"] = f"{type(error).__name__}: {reason}"
    return found


if __name__ == "__main__":
    main()
