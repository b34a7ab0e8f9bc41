"""Decodes each video in a process of its own, so that a hostile file harms and sees nothing else.

Run by `multimodal.video` as `python -m multimodal.video_worker MAX_BYTES`. Once its imports are
done the process can open no file or socket, write no file, leave no core, and have no more than
MAX_BYTES of address space. Where the kernel has Landlock, it can run no program, remove or rename
no file, and signal and inspect no other process. It forks a child for each video, which alone reads
the file: decord2 3.4 reads memory behind the file's bytes where the file points there, and nothing
of another video may be found in it. Whatever goes wrong with a video ends the child, and with it
the process: the parent reads end-of-file.

Both directions, in this order:

    worker  {"ready": true}                                            once
    parent  {"num_bytes": n, "cpu_s": seconds, "num_threads"}, then the n bytes of a video file
    child   {"num_frames", "fps", "width", "height"}                   sizes after rotation
    parent  {"indices": [...]}                                         frame numbers, ascending
    child   height * width * 3 bytes of RGB for each of them

Rotation in the file's display matrix (phone videos) is applied by decord2. Frames are those that
`decord.VideoReader(file).get_batch(indices)` returns, which is how the reference reads videos.
"""

import ctypes
import os
import resource
import signal
import sys
from io import BytesIO
from typing import IO, Any

import decord
import numpy as np

from multimodal.landlock import give_up_files_and_signals
from multimodal.worker_messages import private_stdio, read_exactly, receive, send

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def main() -> None:
    commands, answers = private_stdio()
    _confine(max_bytes=int(sys.argv[1]))
    send(answers, {"ready": True})
    while (job := receive(commands)) is not None:
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _limit_cpu(job["cpu_s"])
            _decode(job, commands, answers)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(1)


def _decode(job: dict[str, Any], commands: IO[bytes], answers: IO[bytes]) -> None:
    file = BytesIO(read_exactly(commands, job["num_bytes"]))
    video = decord.VideoReader(file, ctx=decord.cpu(0), num_threads=job["num_threads"])
    first = _rgb(video[0])
    height, width, _ = first.shape
    fps = float(video.get_avg_fps())
    send(answers, {"num_frames": len(video), "fps": fps, "width": width, "height": height})
    request = receive(commands)
    if request is None:
        return
    for index in request["indices"]:
        frame = first if index == 0 else _rgb(video[index])
        if frame.shape != first.shape:
            raise ValueError("a frame differs in size from the first one")
        answers.write(frame.data)
    answers.flush()


def _rgb(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8. decord2 3.4 counts the padding of rows as further channels where it divides
    evenly by the width (48, 96 and 144 pixels, for example); its get_batch fails for these."""
    pixels: np.ndarray = frame.asnumpy()
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, -1)[:, : width * 3]
    return np.ascontiguousarray(rows, dtype=np.uint8).reshape(height, width, 3)


def _confine(max_bytes: int) -> None:
    _shut_in()
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    for nothing in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(nothing, (0, 0))


def _shut_in() -> None:
    """Landlock restricts this thread and those that it starts; the decoder's come later."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # a program that collects cores ignores their limit
    give_up_files_and_signals()


def _limit_cpu(seconds: int) -> None:
    """Let this process have `seconds` of processor time, counted from its start."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


if __name__ == "__main__":
    main()
