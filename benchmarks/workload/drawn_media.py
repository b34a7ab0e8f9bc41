"""Images and videos that the load test draws."""

import random
from collections.abc import Sequence

from benchmarks.pictures import ImageFormat, encode, image_part
from benchmarks.workload.clip import draw_frames, draw_mp4
from benchmarks.workload.drawn_image import ImageKind, draw_image
from benchmarks.workload.image_sizes import ImageSizes
from benchmarks.workload.message import Part, file_part

_KINDS: dict[ImageKind, int] = {"photo": 7, "page": 1, "chart": 1, "screenshot": 1}
_PAGE_SIZE = (1240, 1754)  # A4 at 150 dots per inch
_SCREEN_SIZE = (1920, 1080)
_COMPRESS_LEVEL = 2  # of PNG: a tenth more bytes than level 6, in three quarters of the time


class DrawnMedia:
    """As many as are asked for. Photographs are JPEG, everything else is PNG."""

    num_images = None
    num_videos = None

    def __init__(self, seed: int, image_sizes: ImageSizes, video_seconds: float) -> None:
        self._seed = seed
        self._image_sizes = image_sizes
        self._video_seconds = video_seconds

    def image(self, number: int) -> Part:
        """Mostly photographs, of the sizes that were asked for."""
        generator = self._generator("image", number)
        kind = generator.choices(list(_KINDS), list(_KINDS.values()))[0]
        return self._draw(kind, generator, *self._image_sizes.draw(generator))

    def page(self, number: int) -> Part:
        return self._draw("page", self._generator("page", number), *_PAGE_SIZE)

    def screenshot(self, number: int) -> Part:
        return self._draw("screenshot", self._generator("screenshot", number), *_SCREEN_SIZE)

    def video(self, number: int) -> Part:
        clip = draw_mp4(self._generator("video", number), self._video_seconds)
        return file_part("video", clip, "video/mp4")

    def frames(self, number: int) -> Sequence[bytes]:
        return draw_frames(self._generator("frames", number), self._video_seconds)

    def _draw(self, kind: ImageKind, generator: random.Random, width: int, height: int) -> Part:
        image = draw_image(kind, generator, width, height, scenes_seed=self._seed)
        image_format: ImageFormat = "JPEG" if kind == "photo" else "PNG"
        return image_part(encode(image, image_format, _COMPRESS_LEVEL), image_format)

    def _generator(self, kind: str, number: int) -> random.Random:
        return random.Random(f"{self._seed}/{kind}/{number}")
