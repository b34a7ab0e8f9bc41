"""A bar on the terminal while the model is loaded. Where the log goes elsewhere, nothing is drawn.

Every process of the server writes lines of the log to the same terminal meanwhile. The bar leaves
the cursor at the start of its line, so that they write over it, and draws itself again below.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multimodal.load_progress import Loaded, make_folder, read_loaded, weights_bytes
from server.log_setup import CLEAR_LINE, is_read_live
from server.settings import Settings
from server.units import format_bytes

_INTERVAL_S = 0.2
_WIDTH = 24


@contextmanager
def loading_bar(settings: Settings, model: str, run_folder: Path) -> Iterator[None]:
    """Draw within the block, if there is a terminal.

    Args:
        model: a local folder or a Hugging Face repository name.
        run_folder: that the engine's processes know.
    """
    if not is_read_live(settings.server.log_format):
        yield
        return
    folder, ended = make_folder(run_folder), threading.Event()
    total_bytes = weights_bytes(model, settings.engine.revision)
    drawer = threading.Thread(target=_draw, args=(folder, total_bytes, ended), name="loading-bar")
    drawer.start()
    try:
        yield
    finally:
        ended.set()
        drawer.join()


def _draw(folder: Path, total_bytes: int | None, ended: threading.Event) -> None:
    """The engine is forked meanwhile: this takes no lock that the child would find taken."""
    started, descriptor = time.monotonic(), sys.stderr.fileno()
    while not ended.wait(_INTERVAL_S):
        line = describe(read_loaded(folder), total_bytes, time.monotonic() - started)
        _write(descriptor, f"{CLEAR_LINE}{line}\r")
    _write(descriptor, CLEAR_LINE)


def _write(descriptor: int, text: str) -> None:
    try:
        os.write(descriptor, text.encode())
    except OSError:  # the terminal is gone
        return


def describe(loaded: Loaded | None, total_bytes: int | None, seconds: float) -> str:
    """One line, shorter than one of the log. Args: seconds: since the start."""
    if loaded is None:
        return f"starting the engine, {seconds:.0f} s"
    if loaded.is_done:
        return f"warming up the engine, {seconds:.0f} s"
    if total_bytes is None:
        return f"weights {format_bytes(loaded.num_bytes)}, {seconds:.0f} s"
    share = min(1.0, loaded.num_bytes / total_bytes)
    bar = ("#" * int(share * _WIDTH)).ljust(_WIDTH, ".")
    return f"weights [{bar}] {share:.0%} of {format_bytes(total_bytes)}, {seconds:.0f} s"
