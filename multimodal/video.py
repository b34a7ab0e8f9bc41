"""Video files: a pool of processes that decode them.

The parent's side of `multimodal.video_worker`. Its methods block; they are called from threads.
"""

import fcntl
import json
import math
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from multimodal.errors import MediaCorrupt, MediaTooLarge
from multimodal.options import MediaLimits
from multimodal.plan import VideoHeader
from multimodal.video_file import check_video_file
from multimodal.worker_messages import LENGTH_BYTES, encode_message

_START_TIMEOUT_S = 60.0
_POLL_S = 0.1  # how soon a cancelled job notices
_PIPE_BYTES = 1024**2  # the default limit for unprivileged processes; frames are megabytes
_MAX_MESSAGE_BYTES = 4096  # of what a worker may answer; its header is some 100 bytes
_MAX_COUNT = 2**31 - 1  # frames of a file and pixels of a side, as the decoder counts them
_DECODER_THREADS = 2  # of a worker, by which its processor time may exceed the wall clock


class DecodingCancelled(Exception):
    """The request went away, or the decoder was closed, while a video was being decoded."""


class VideoStream:
    """One video that a worker has opened: its header, then its frames."""

    def __init__(self, worker: "_Worker", header: VideoHeader) -> None:
        self.header = header
        self.is_finished = False
        self._worker = worker

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Decode frames, each (H, W, 3) uint8; to be called once.

        Args:
            indices: not descending; a repeated one yields the same array again.
        Raises: MediaCorrupt, MediaTooLarge (time), DecodingCancelled.
        """
        self._worker.send({"indices": sorted(set(indices))})
        previous, frame = -1, np.empty(0, np.uint8)
        for index in indices:
            if index != previous:
                frame = np.empty((self.header.height, self.header.width, 3), np.uint8)
                self._worker.read_into(frame.reshape(-1).data)
            previous = index
            yield frame
        self.is_finished = True

    def finish(self) -> None:
        """Instead of `frames`, if only the header was wanted."""
        self._worker.send({"indices": []})
        self.is_finished = True


class VideoDecoder:
    """At most `num_workers` processes; each starts when first needed and forks for every video.

    One that fails, is too slow or is cancelled is killed with its child, which ends that one
    request only; the next one gets a new process.
    """

    def __init__(self, num_workers: int, limits: MediaLimits) -> None:
        self._limits = limits
        self._closed = threading.Event()
        self._places: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._num_workers = num_workers
        for _ in range(num_workers):
            self._places.put(None)

    @contextmanager
    def open(self, data: bytes, cancelled: threading.Event) -> Iterator[VideoStream]:
        """Open a video in a worker; blocks until one is free.

        Raises: UnsupportedMedia, MediaTooLarge, MediaCorrupt; DecodingCancelled; RuntimeError if no
            worker can be started.
        """
        check_video_file(data, self._limits)
        worker = self._places.get()
        stream = None
        try:
            if self._closed.is_set():
                raise DecodingCancelled
            if worker is not None and not worker.is_alive:
                worker.kill()
                worker = None
            if worker is None:
                worker = _start_worker(self._limits)
            worker.begin((cancelled, self._closed), self._limits.video_timeout_s)
            stream = VideoStream(worker, worker.open(data))
            yield stream
        finally:
            if worker is not None and not (stream is not None and stream.is_finished):
                worker.kill()
                worker = None
            self._places.put(worker)

    def close(self) -> None:
        """End all workers; a video that is being decoded raises DecodingCancelled."""
        self._closed.set()
        workers = [self._places.get() for _ in range(self._num_workers)]
        for worker in workers:
            if worker is not None:
                worker.kill()
            self._places.put(None)


class _Worker:
    """One process, whose child decodes a video, and the deadline of its present job."""

    def __init__(self, limits: MediaLimits) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "multimodal.video_worker",
                str(limits.max_video_worker_bytes),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={
                "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
                "PATH": os.defpath,  # decord appends to it when imported
                "OPENBLAS_NUM_THREADS": "1",  # each would reserve address space
            },
            start_new_session=True,  # the terminal's interrupt is the server's to handle
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._stdin, self._stdout):
            os.set_blocking(pipe, False)
            with suppress(OSError):  # a user may have 64 MiB of pipes; a small one is slower
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._stops: tuple[threading.Event, ...] = ()
        self._timeout_s = _START_TIMEOUT_S
        self._deadline = time.monotonic() + self._timeout_s
        try:
            self._receive()
        except (MediaCorrupt, MediaTooLarge):
            self.kill()
            raise RuntimeError("the video worker process does not start") from None

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def begin(self, stops: tuple[threading.Event, ...], timeout_s: float) -> None:
        """Start the clock of a job that any of `stops` ends."""
        self._stops, self._timeout_s = stops, timeout_s
        self._deadline = time.monotonic() + timeout_s

    def open(self, data: bytes) -> VideoHeader:
        cpu_s = math.ceil(self._timeout_s) * _DECODER_THREADS
        job = {"num_bytes": len(data), "cpu_s": cpu_s, "num_threads": _DECODER_THREADS}
        self.send(job)
        self._write(memoryview(data))
        return _video_header(self._receive())

    def send(self, message: dict[str, Any]) -> None:
        self._write(memoryview(encode_message(message)))

    def read_into(self, buffer: memoryview) -> None:
        """Fill the buffer with what the worker writes."""
        while buffer:
            self._wait(self._stdout, select.POLLIN)
            count = os.readv(self._stdout, [buffer])
            if count == 0:
                raise _corrupt()
            buffer = buffer[count:]

    def kill(self) -> None:
        """End the process and reap it; its pipes are closed."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _receive(self) -> Any:
        length = bytearray(LENGTH_BYTES)
        self.read_into(memoryview(length))
        num_bytes = int.from_bytes(length, "big")
        if num_bytes > _MAX_MESSAGE_BYTES:
            raise _corrupt()
        message = bytearray(num_bytes)
        self.read_into(memoryview(message))
        try:
            return json.loads(message)
        except (ValueError, RecursionError):
            raise _corrupt() from None

    def _write(self, data: memoryview) -> None:
        while data:
            self._wait(self._stdin, select.POLLOUT)
            try:
                data = data[os.write(self._stdin, data) :]
            except BrokenPipeError:
                raise _corrupt() from None

    def _wait(self, pipe: int, event: int) -> None:
        """Wait until the pipe is ready, or broken (reading and writing tell), or time is up."""
        poll = select.poll()
        poll.register(pipe, event)
        while True:
            if any(stop.is_set() for stop in self._stops):
                raise DecodingCancelled
            remaining_s = self._deadline - time.monotonic()
            if remaining_s <= 0:
                raise MediaTooLarge(
                    f"decoding the video took longer than video_timeout_s ({self._timeout_s:g})",
                    "video_timeout",
                )
            if poll.poll(min(_POLL_S, remaining_s) * 1000):
                return


def _start_worker(limits: MediaLimits) -> _Worker:
    """Raises: RuntimeError."""
    try:
        return _Worker(limits)
    except RuntimeError:  # perhaps it was killed while it started
        return _Worker(limits)


def _video_header(answer: Any) -> VideoHeader:
    """What a worker says of a video; a worker is not trusted more than the file it has read."""
    try:
        header = VideoHeader(
            num_frames=int(answer["num_frames"]),
            fps=float(answer["fps"]),
            width=int(answer["width"]),
            height=int(answer["height"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _corrupt() from None
    counts = (header.num_frames, header.width, header.height)
    if min(counts) < 1 or max(counts) > _MAX_COUNT:
        raise _corrupt()
    return header


def _corrupt() -> MediaCorrupt:
    return MediaCorrupt("the video cannot be decoded", "corrupt_video")
