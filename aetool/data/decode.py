"""Decoding images that may be corrupt, hostile or of any pixel mode."""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aetool.data.paths import refuse_special
from aetool.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # not EPS, which PIL gives to Ghostscript
OPENING = threading.Lock()  # filters of warnings are those of the process, not of a thread


@contextmanager
def open_image(file: str | IO[bytes], max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Iterator["Image.Image"]:
    """A decoded image; any problem with it, also one inside the block, is a DataError.

    A file that is none, such as a pipe, is not opened. The size is checked before decoding, since a small file can
    claim a huge image. Thread-safe.
    """
    from PIL import Image

    corrupt = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)  # what PIL raises
    misread = (TypeError, AttributeError, LookupError, ArithmeticError)  # where a field is not a number
    too_large = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        if isinstance(file, str):
            refuse_special(file)
        with OPENING, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(file, formats=formats)
        with opened as image:
            if image.width * image.height > max_pixels:
                raise DataError(f"{image.width}×{image.height} is more than {max_pixels} pixels")
            try:
                image.load()
            except misread as error:
                raise DataError(f"{type(error).__name__}: {error}") from error
            yield image
    except (*corrupt, *too_large) as error:
        raise DataError(f"{type(error).__name__}: {error}") from error


def resized(image: "Image.Image", height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """(channels, height, width), antialiased; 1 channel is grey, 3 are RGB; transparent pixels are put on white."""
    from PIL import Image, ImageOps

    mode = "L" if channels == 1 else "RGB"
    image = _eight_bits(ImageOps.exif_transpose(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    small = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)  # PIL widens the filter to shrink
    return np.asarray(small, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """16-bit grey scaled to 8 bits, because PIL would clip it."""
    from PIL import Image

    if image.mode == "F":
        raise DataError("floating-point pixels have no known range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError("pixels beyond 16 bits have no known range")
    return Image.fromarray((values // 257).astype(np.uint8))
