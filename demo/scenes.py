"""Random pictures and clips in which something can be asked about.

`aligned` pictures are what training starts with: they need no resizing, and everything in them is
centred in the 32 x 32 pixels of one vision token.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from demo.preprocessing import PREPROCESSOR, image_size, num_sampled, video_plan
from demo.world import COLORS, SHAPES, Clip, Picture, Rgb, Shape, Text, text_width

TOKEN_PIXELS = 32
_MIN_SIDE, _MAX_SIDE = 64, 448
_RATIOS = (1.0, 1.0, 4 / 3, 3 / 2, 16 / 9, 2.0, 3.0)
_MAX_TRIES = 40
_WORD_LIST = """
ACE AGE AIR ANT APPLE ARM ART BAG BALL BANK BEAR BED BEE BELL BIRD BOAT BOOK BOX BOY BREAD BUS
CAKE CAR CAT CHAIR CITY CLOCK COAT COLD CORN COW CUP DAY DESK DOG DOOR DUCK EAR EGG EXIT EYE
FARM FAST FISH FIVE FLAG FOX FROG FUN GAME GATE GIRL GOLD GOOD GRASS HAND HAT HELLO HILL HOME
HORSE HOUSE ICE INK JAM JAZZ JOB JUMP KEY KING KITE LAKE LAMP LEAF LION MAP MILK MOON MOUSE NEST
NET NIGHT NINE NOSE OPEN OWL PARK PEN PIG PIZZA PLANE QUEEN QUIZ RAIN RING ROAD ROSE SALT SEA
SHIP SHOE SKY SNOW SOUP STAR STOP SUN TAXI TEA TRAIN TREE VAN VASE WATER WAVE WIND WOLF YARD YES
ZEBRA ZERO ZOO
"""
WORDS = tuple(_WORD_LIST.split())


def random_name(rng: random.Random) -> tuple[str, str]:
    """Colour and kind of a shape."""
    return rng.choice(list(COLORS)), rng.choice(SHAPES)


def random_names(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Different ones."""
    names: list[tuple[str, str]] = []
    while len(names) < count:
        name = random_name(rng)
        if name not in names:
            names.append(name)
    return names


def random_size(rng: random.Random, aligned: bool) -> tuple[int, int]:
    """Width and height in pixels."""
    if aligned:
        width, height = rng.choice([(4, 4), (5, 4), (4, 5), (6, 4), (5, 5), (6, 3), (8, 2), (3, 6)])
        return width * TOKEN_PIXELS, height * TOKEN_PIXELS
    long_side = _log_uniform(rng, _MIN_SIDE, _MAX_SIDE)
    short_side = max(_MIN_SIDE, long_side / rng.choice(_RATIOS))
    sides = round(long_side), round(short_side)
    return sides if rng.random() < 0.5 else sides[::-1]


def token_side(width: int, height: int) -> float:
    """The side, in pixels of the source, of what one vision token covers."""
    resized_height, resized_width = image_size(height, width)
    return TOKEN_PIXELS * max(width / resized_width, height / resized_height)


def text_picture(rng: random.Random, content: str, aligned: bool) -> Picture:
    """One line of text."""
    for _ in range(_MAX_TRIES):
        width, height = random_size(rng, aligned)
        is_wide_enough = len(content) * 0.62 * token_side(width, height) < 0.9 * width
        if is_wide_enough and (not aligned or len(content) <= width // TOKEN_PIXELS):
            break
    else:
        width, height = 6 * TOKEN_PIXELS, 4 * TOKEN_PIXELS
    background, ink = _paper_and_ink(rng)
    place = _text_in_tokens if aligned else _text_freely
    return Picture(width, height, background, text=place(rng, content, (width, height), ink))


def shapes_picture(rng: random.Random, names: Sequence[tuple[str, str]], aligned: bool) -> Picture:
    """These shapes, at random places, none overlapping."""
    while True:
        width, height = random_size(rng, aligned)
        picture = Picture(width, height, _paper_and_ink(rng)[0])
        place = _place_in_token if aligned else _place_freely
        for color, kind in names:
            shape = place(rng, picture, kind, color, len(names))
            if shape is None:
                break
            picture = replace(picture, shapes=(*picture.shapes, shape))
        if len(picture.shapes) == len(names):
            return picture


def one_sided_picture(rng: random.Random, side: str, aligned: bool) -> Picture:
    """One shape clearly at the `left`, `right`, `top` or `bottom`."""
    while True:
        picture = shapes_picture(rng, [random_name(rng)], aligned)
        if side_of(picture, picture.shapes[0]) == side:
            return picture


def side_of(picture: Picture, shape: Shape) -> str | None:
    """The side at which a shape lies, if there is a clear one."""
    dx, dy = shape.x / picture.width - 0.5, shape.y / picture.height - 0.5
    if max(abs(dx), abs(dy)) < 0.16 or min(abs(dx), abs(dy)) > 0.6 * max(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "top" if dy < 0 else "bottom"


def scene_clip(rng: random.Random, names: Sequence[tuple[str, str]]) -> tuple[Clip, list[float]]:
    """Shapes shown one after another; with the timestamp of the first temporal patch of each."""
    fps, num_frames = _clip_length(rng, min_patches=len(names))
    width, height = random_size(rng, aligned=False)
    plan = video_plan(num_frames, fps, height, width)
    patches = [0, *sorted(rng.sample(range(1, len(plan.timestamps)), len(names) - 1))]
    background = _paper_and_ink(rng)[0]
    scenes = [_clip_scene(rng, width, height, background, name) for name in names]
    starts = [_first_frame(rng, plan.indices, patch) for patch in patches]
    frames: list[Picture] = []
    for scene, end in zip(scenes, [*starts[1:], num_frames], strict=True):
        frames += [scene] * (end - len(frames))
    return Clip(fps, tuple(frames)), [plan.timestamps[patch] for patch in patches]


def moving_clip(rng: random.Random, direction: str) -> Clip:
    """One shape that moves `left`, `right`, `up` or `down`."""
    fps, num_frames = _clip_length(rng, min_patches=2)
    width, height = random_size(rng, aligned=False)
    scene = _clip_scene(rng, width, height, _paper_and_ink(rng)[0], random_name(rng))
    shape = replace(scene.shapes[0], radius=min(width, height) * rng.uniform(0.15, 0.25))
    start, end = rng.uniform(0.18, 0.32), rng.uniform(0.68, 0.82)
    if direction in ("left", "up"):
        start, end = end, start
    frames = []
    for index in range(num_frames):
        along = start + (end - start) * index / (num_frames - 1)
        if direction in ("left", "right"):
            moved = replace(shape, x=along * width)
        else:
            moved = replace(shape, y=along * height)
        frames.append(replace(scene, shapes=(moved,)))
    return Clip(fps, tuple(frames))


def _clip_length(rng: random.Random, min_patches: int) -> tuple[float, int]:
    """Frame rate and number of frames."""
    fps = rng.choice([2.0, 4.0, 5.0, 8.0, 10.0])
    while True:
        num_frames = round(_log_uniform(rng, 2.0, 24.0) * fps)
        if num_sampled(num_frames, fps) >= max(PREPROCESSOR.min_frames, 2 * min_patches):
            return fps, num_frames


def _first_frame(rng: random.Random, indices: Sequence[int], patch: int) -> int:
    """A source frame with which `patch`, and none before it, begins."""
    if patch == 0:
        return 0
    return rng.randint(indices[2 * patch - 1] + 1, indices[2 * patch])


def _clip_scene(
    rng: random.Random, width: int, height: int, background: Rgb, name: tuple[str, str]
) -> Picture:
    radius = min(width, height) * rng.uniform(0.22, 0.42)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    shape = Shape(name[1], name[0], x, y, radius, _jittered(rng, COLORS[name[0]]))
    return Picture(width, height, background, shapes=(shape,))


def _text_in_tokens(rng: random.Random, content: str, size: tuple[int, int], ink: Rgb) -> Text:
    columns, rows = size[0] // TOKEN_PIXELS, size[1] // TOKEN_PIXELS
    x = rng.randint(0, columns - len(content)) * TOKEN_PIXELS
    y = (rng.randrange(rows) + 0.5) * TOKEN_PIXELS
    return Text(content, x, y, rng.randint(26, 38), ink, spacing=TOKEN_PIXELS)


def _text_freely(rng: random.Random, content: str, size: tuple[int, int], ink: Rgb) -> Text:
    width, height = size
    token = token_side(width, height)
    largest = min(1.75 * token, 0.95 * width / (text_width(content, 100) / 100), 0.9 * height)
    font_size = max(6, round(rng.uniform(min(0.75 * token, largest), largest)))
    x = rng.uniform(0.02, 0.98) * (width - text_width(content, font_size))
    y = rng.uniform(font_size * 0.45, height - font_size * 0.45)
    return Text(content, x, y, font_size, ink)


def _place_in_token(
    rng: random.Random, picture: Picture, kind: str, color: str, count: int
) -> Shape | None:
    columns, rows = picture.width // TOKEN_PIXELS, picture.height // TOKEN_PIXELS
    for _ in range(_MAX_TRIES):
        x = (rng.randrange(columns) + 0.5) * TOKEN_PIXELS
        y = (rng.randrange(rows) + 0.5) * TOKEN_PIXELS
        if all((shape.x, shape.y) != (x, y) for shape in picture.shapes):
            return Shape(kind, color, x, y, rng.uniform(10, 15.5), _jittered(rng, COLORS[color]))
    return None


def _place_freely(
    rng: random.Random, picture: Picture, kind: str, color: str, count: int
) -> Shape | None:
    token = token_side(picture.width, picture.height)
    short_side = min(picture.width, picture.height)
    largest = min(0.4 * short_side, 0.36 * (picture.width * picture.height / count) ** 0.5)
    if largest < 0.38 * token:
        return None
    for _ in range(_MAX_TRIES):
        radius = rng.uniform(0.38 * token, largest)
        x = rng.uniform(radius + 1, picture.width - radius - 1)
        y = rng.uniform(radius + 1, picture.height - radius - 1)
        if all(
            max(abs(shape.x - x), abs(shape.y - y)) > shape.radius + radius + 0.12 * token
            for shape in picture.shapes
        ):
            return Shape(kind, color, x, y, radius, _jittered(rng, COLORS[color]))
    return None


def _paper_and_ink(rng: random.Random) -> tuple[Rgb, Rgb]:
    light = _tinted(rng, rng.randint(190, 250))
    dark = _tinted(rng, rng.randint(5, 60))
    return (light, dark) if rng.random() < 0.6 else (dark, light)


def _tinted(rng: random.Random, level: int) -> Rgb:
    return _moved(rng, (level, level, level), 8)


def _jittered(rng: random.Random, rgb: Rgb) -> Rgb:
    return _moved(rng, rgb, 14)


def _moved(rng: random.Random, rgb: Rgb, most: int) -> Rgb:
    red, green, blue = (min(255, max(0, value + rng.randint(-most, most))) for value in rgb)
    return red, green, blue


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())
