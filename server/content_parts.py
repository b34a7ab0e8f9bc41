"""The parts of a chat message, as OpenAI, vLLM and qwen-vl-utils write them."""

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator
from pydantic.config import JsonDict

from multimodal.plan import MIN_FPS
from server.body import STR_OR_LIST, BodyModel, MediaUrl, by_type
from server.openapi.rule_schemas import NULL, excludes, with_rules

_FPS: JsonDict = {"minimum": MIN_FPS}  # checked with the media; so are the server's ceilings


class ImageOptions(BodyModel):
    """Pixels of the resized image; the server's ceilings are checked with the media."""

    min_pixels: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)


class VideoOptions(ImageOptions):
    """`multimodal.options.MediaOptions` as a request spells it."""

    fps: float | None = Field(default=None, gt=0, json_schema_extra=_FPS)
    num_frames: int | None = Field(default=None, ge=1)
    max_frames: int | None = Field(default=None, ge=1)
    video_start: float | None = Field(default=None, ge=0)
    video_end: float | None = Field(default=None, ge=0)
    total_pixels: int | None = Field(default=None, ge=1)


class TextPart(BodyModel):
    type: Literal["text"]
    text: str


class ImageUrl(ImageOptions):
    """`detail` is accepted and has no effect: `max_pixels` says the same with a number."""

    url: MediaUrl
    detail: Literal["auto", "low", "high"] | None = None


class ImageUrlPart(BodyModel):
    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(VideoOptions):
    url: MediaUrl


class VideoUrlPart(BodyModel):
    type: Literal["video_url"]
    video_url: VideoUrl


class ImagePart(ImageOptions):
    """An image as qwen-vl-utils writes it."""

    type: Literal["image"]
    image: MediaUrl


class VideoPart(VideoOptions):
    """A video as qwen-vl-utils writes it: one URL, or the frames of a video as a list of URLs.

    `nframes` is its name for `num_frames`; `sample_fps` is the rate at which frames were taken.
    """

    model_config = with_rules(
        nframes=excludes("num_frames"),
        sample_fps={"properties": {"fps": NULL, "video": {"type": "array"}}},
    )

    type: Literal["video"]
    video: Annotated[
        Annotated[MediaUrl, Tag("<str>")]
        | Annotated[list[MediaUrl], Field(min_length=1, fail_fast=True), Tag("<list>")],
        STR_OR_LIST,
    ]
    nframes: int | None = Field(default=None, ge=1)
    sample_fps: float | None = Field(default=None, gt=0, json_schema_extra=_FPS)

    @model_validator(mode="after")
    def _check_names(self) -> "VideoPart":
        if self.nframes is not None and self.num_frames is not None:
            raise ValueError("`nframes` and `num_frames` are the same option; give one")
        if self.sample_fps is not None and (self.fps is not None or isinstance(self.video, str)):
            raise ValueError("`sample_fps` is for a list of frames, and instead of `fps`")
        return self


MediaPart = ImageUrlPart | VideoUrlPart | ImagePart | VideoPart
Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImageUrlPart, Tag("<image_url>")]
    | Annotated[VideoUrlPart, Tag("<video_url>")]
    | Annotated[ImagePart, Tag("<image>")]
    | Annotated[VideoPart, Tag("<video>")],
    by_type("text", "image_url", "video_url", "image", "video"),
]
TextParts = Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
Parts = Annotated[list[Part], Field(min_length=1, fail_fast=True)]
TextContent = Annotated[
    Annotated[str, Tag("<str>")] | Annotated[TextParts, Tag("<list>")], STR_OR_LIST
]
Content = Annotated[Annotated[str, Tag("<str>")] | Annotated[Parts, Tag("<list>")], STR_OR_LIST]


class PixelBounds(BodyModel):
    """The Hugging Face processors' `size`: areas, in spite of the names."""

    shortest_edge: int | None = Field(default=None, ge=1)
    longest_edge: int | None = Field(default=None, ge=2)


class MmProcessorKwargs(VideoOptions):
    """Options for all media of the request; what a part says itself wins."""

    model_config = with_rules(size=excludes("min_pixels", "max_pixels", "total_pixels"))

    do_sample_frames: bool | None = None
    size: PixelBounds | None = None

    @model_validator(mode="after")
    def _check_size(self) -> "MmProcessorKwargs":
        others = (self.min_pixels, self.max_pixels, self.total_pixels)
        if self.size is not None and any(value is not None for value in others):
            raise ValueError("`size` excludes `min_pixels`, `max_pixels` and `total_pixels`")
        return self
