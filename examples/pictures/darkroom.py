"""What is done to one picture: decode, resize, sharpen, encode, write.

Everything here runs in a worker; only `Job` goes in and only `Outcome` comes back, both small.
The pixels never leave the process that decoded them.
"""

import os
import time
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

# A 100 megapixel panorama is a picture and not an attack; Pillow still refuses twice as much.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Job:
    """One picture to develop.

    Attributes:
        source: The file to read.
        thumbnail: The JPEG file to write.
        prints: Longest sides, in pixels, of the larger versions to make before the thumbnail.
        thumbnail_side: Longest side of the thumbnail, in pixels.
    """

    source: Path
    thumbnail: Path
    prints: tuple[int, ...]
    thumbnail_side: int = 320


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job itself.
        pid: The process that did it.
        start: When it began, in seconds of the machine's monotonic clock, which all share.
        end: When it ended.
        problem: Why there is no thumbnail, or an empty string.
        checksum: CRC-32 over all the versions made, to compare one run with another.
    """

    job: Job
    pid: int
    start: float
    end: float
    problem: str
    checksum: int


def develop(job: Job) -> Outcome:
    """Do one picture. Never raises for a bad picture: the outcome says what was wrong."""
    start = time.monotonic()
    problem, checksum = "", 0
    try:
        checksum = make_versions(job)
    # Pillow's decoders raise nearly anything at a damaged file: OSError, SyntaxError, ValueError,
    # struct.error... Whatever it was, the other pictures are not to suffer.
    except Exception as error:
        problem = explain(error)
    return Outcome(job, os.getpid(), start, time.monotonic(), problem, checksum)


def make_versions(job: Job) -> int:
    """Write the thumbnail; return the checksum of everything that was encoded."""
    with Image.open(job.source) as file:
        picture = as_rgb(ImageOps.exif_transpose(file))
    checksum = 0
    for side in job.prints:
        version = resized(picture, side).filter(ImageFilter.UnsharpMask(radius=2.5, percent=120))
        checksum = zlib.crc32(encoded(version, quality=88), checksum)
    small = resized(picture, job.thumbnail_side)
    small = small.filter(ImageFilter.UnsharpMask(radius=0.8, percent=90))
    data = encoded(small, quality=85)
    job.thumbnail.write_bytes(data)
    return zlib.crc32(data, checksum)


def as_rgb(picture: Image.Image) -> Image.Image:
    """Bring any kind of picture to 8-bit RGB: transparency on white, deep grey scaled down."""
    if picture.mode.startswith(("I", "F")):
        deep = picture.convert("F")
        low, high = (float(value) for value in deep.getextrema())  # type: ignore[arg-type]
        scale = 255 / (high - low) if high > low else 0.0
        return deep.point(lambda value: value * scale - low * scale).convert("L").convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def resized(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its longest side brought to `side` pixels, larger or smaller."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def encoded(picture: Image.Image, quality: int) -> bytes:
    """The picture as JPEG bytes."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def explain(error: Exception) -> str:
    """One line for the report, without Pillow's repetition of the path."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels, this may be a decompression bomb"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
