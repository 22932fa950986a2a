"""Images with text, drawn by OpenCV and returned as BGR, which is what OpenCV writes.

Images to draw are uint8 (H, W, C), RGB where they have colours; of other numbers of channels than 1 and 3 the first
three are shown, or the first of two. OpenCV's font has ASCII letters only; others become question marks.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

_FONT, _SCALE, _LINE, _INDENT = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 20, 8
_GAP = 2  # pixels around each cell of a grid
_WHITE = (255, 255, 255)
COLUMNS = 8  # of a grid of samples
# Fast compression: the filters that OpenCV 4.12 tries by default are meant for photographs.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    _PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]

Label = str | Sequence[str]  # one line or several


def overlay_cam(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Blends a class activation map (H, W) in 0..1, blue to red, into an image: RGB uint8 (H, W, 3)."""
    colours = cv2.applyColorMap(np.rint(cam * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    return cv2.cvtColor(cv2.addWeighted(_bgr(image), 0.5, colours, 0.5, 0), cv2.COLOR_BGR2RGB)


def grid(
    images: Iterable[np.ndarray], columns: int, cell: Sequence[int], title: str, labels: Sequence[Label] | None = None
) -> np.ndarray:
    """Draws images in rows of `columns`, each fitted into a cell of (height, width), under a title: BGR (H, W, 3).

    Labels stand above the images and have the same number of lines.
    """
    tiles = [_tile(image, cell) for image in images]
    if labels is not None:
        lines = [[label] if isinstance(label, str) else label for label in labels]
        banners = [_banner(label, cell[1] + 2 * _GAP) for label in lines]
        tiles = [np.concatenate(pair) for pair in zip(banners, tiles, strict=True)]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return np.concatenate([_banner([title], rows[0].shape[1]), *rows])


def thumbnail_size(size: Sequence[int]) -> tuple[int, int]:
    """Returns the (height, width) in a grid for images of a `size`: enlarged to 112 pixels or reduced to 224."""
    side = max(size)
    scale = min(math.ceil(112 / side), 224 / side)
    return round(size[0] * scale), round(size[1] * scale)


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image uint8 (H, W, 1 or 3), BGR, as PNG."""
    return cv2.imencode(".png", image, _PNG)[1].tobytes()


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes an image uint8 (H, W, 1 or 3), BGR, as PNG, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))


def text_width(line: str) -> int:
    """Returns the width of a line in pixels, margins included."""
    return cv2.getTextSize(_ascii(line), _FONT, _SCALE, 1)[0][0] + 2 * _INDENT


def visible(image: np.ndarray) -> np.ndarray:
    """Returns the channels of an image (H, W, C) that are shown: the first three, or else the first, (H, W, 3 or 1)."""
    return np.ascontiguousarray(image[..., : 3 if image.shape[2] >= 3 else 1])


def _bgr(image: np.ndarray) -> np.ndarray:
    image = visible(image)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.shape[2] == 1 else cv2.COLOR_RGB2BGR)


def _tile(image: np.ndarray, cell: Sequence[int]) -> np.ndarray:
    """An image centred in a white cell; a small one is enlarged by a whole factor, so that its pixels stay square."""
    scale = min(cell[0] / image.shape[0], cell[1] / image.shape[1])
    scale = int(scale) if scale > 1 else scale
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    interpolation = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    image = cv2.resize(_bgr(image), (width, height), interpolation=interpolation)
    top, left = (cell[0] - height) // 2, (cell[1] - width) // 2
    borders = (top + _GAP, cell[0] - height - top + _GAP, left + _GAP, cell[1] - width - left + _GAP)
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=_WHITE)


def _banner(lines: Sequence[str], width: int) -> np.ndarray:
    """Lines of text, black on white; a line longer than `width` ends in two dots."""
    banner = np.full((_LINE * len(lines) + 10, width, 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        cuts = (line, *(f"{line[:end]}.." for end in range(len(line) - 1, 0, -1)))
        shown = next((cut for cut in cuts if text_width(cut) <= width), "")
        cv2.putText(banner, _ascii(shown), (_INDENT, _LINE * number), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return banner


def _ascii(line: str) -> str:
    return line.encode("ascii", "replace").decode()
