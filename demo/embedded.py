"""The checkpoint behind the model name `demo`: trained by `demo.train`, shipped in this folder."""

from pathlib import Path

EMBEDDED_CHECKPOINT = Path(__file__).parent / "checkpoint"
