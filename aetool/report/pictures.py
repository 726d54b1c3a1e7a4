"""Pictures embedded in an HTML file: figures over runs, and the pictures in the folders of runs, downsized."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from aetool.report.plots import Chart, render

PICTURES = ("reconstructions", "atoms", "samples", "atlas*")  # file names in figures/, where they exist
WIDTH = 1000  # pixels; larger pictures are downsized
BYTES = 2_300_000  # budget of all pictures of runs together, approximate
WIDE = 8  # inches, above which a figure takes the whole width
LARGEST = 250_000  # bytes of one picture
LARGE_SVG = 100_000  # bytes, above which a figure is embedded as PNG


class Picture(NamedTuple):
    source: str  # a data URI
    alt: str
    caption: str = ""
    wide: bool = False  # takes the whole width where there are two columns


def album(directories: Sequence[Path]) -> list[list[Picture]]:
    """The pictures of each run, within the budget of BYTES."""
    files = [[path for name in PICTURES for path in sorted(own.glob(f"figures/{name}.png"))] for own in directories]
    limit = min(LARGEST, BYTES // max(1, sum(map(len, files))))

    def embed(file: Path) -> Picture | None:
        return embedded(file, limit, f"{file.stem.replace('_', ' ')} of {file.parents[1].name}")

    with ThreadPoolExecutor() as pool:  # Pillow works outside of the interpreter's lock
        return [list(filter(None, found)) for found in [pool.map(embed, own) for own in files]]


def embedded(path: Path, limit: int, alt: str) -> Picture | None:
    """An embedded PNG file, downsized to about `limit` bytes; None if it is not a readable picture."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            if opened.format == "PNG" and len(data) <= limit and opened.width <= WIDTH:
                opened.verify()
                return Picture(_uri("image/png", data), alt, wide=path.stem.startswith("atlas"))
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # damaged file
        return None
    width = min(image.width, WIDTH)
    for _ in range(3):
        small = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        small.save(file, "WEBP", quality=75, method=1)
        if file.tell() <= limit:
            break
        width = max(240, int(0.95 * width * (limit / file.tell()) ** 0.5))
    return Picture(_uri("image/webp", file.getvalue()), alt, wide=path.stem.startswith("atlas"))


def figure(chart: Chart) -> Picture:
    file = io.BytesIO()
    render(chart.figure, file, "svg")
    kind = "svg+xml"
    if file.tell() > LARGE_SVG:
        kind, file = "png", io.BytesIO()
        render(chart.figure, file, "png")
    wide = chart.figure.get_figwidth() > WIDE
    return Picture(_uri(f"image/{kind}", file.getvalue()), chart.caption.partition(". ")[0], chart.caption, wide)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
