"""Pictures with words on them, as BGR, which is what OpenCV writes.

OpenCV's font has ASCII letters only; others are shown as question marks.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

_FONT, _SCALE, _LINE, _INDENT = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 20, 8
_LEAST_WIDTH = 320
_GAP = 2  # pixels around each cell of a grid
_WHITE = (255, 255, 255)


def annotate(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """An image uint8 (H, W, 1 or 3), RGB, enlarged if it is small, with lines of text above it."""
    image = _bgr(image)
    width = max(_LEAST_WIDTH, *(_text_width(line) for line in lines))
    scale = min(width / image.shape[1], _LEAST_WIDTH / image.shape[0])
    if scale > 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    missing = max(width - image.shape[1], 0)
    image = cv2.copyMakeBorder(image, 0, 0, 0, missing, cv2.BORDER_CONSTANT, value=_WHITE)
    return np.concatenate([_banner(lines, image.shape[1]), image])


def heat(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """A map (H, W) in 0..1, blue to red, half transparent over an image uint8 (H, W, 1 or 3), RGB: (H, W, 3), RGB."""
    colours = cv2.applyColorMap(np.rint(cam * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    return cv2.cvtColor(cv2.addWeighted(_bgr(image), 0.5, colours, 0.5, 0), cv2.COLOR_BGR2RGB)


def grid(
    images: Iterable[np.ndarray], columns: int, cell: Sequence[int], title: str, labels: Sequence[str] | None = None
) -> np.ndarray:
    """Images uint8 (H, W, 1 or 3), RGB, each fitted into a `cell` of (height, width), `columns` in a row.

    The title stands above them all, its label above each.
    """
    tiles = [_tile(image, cell) for image in images]
    if labels is not None:
        banners = [_banner([label], cell[1] + 2 * _GAP) for label in labels]
        tiles = [np.concatenate(pair) for pair in zip(banners, tiles, strict=True)]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return np.concatenate([_banner([title], rows[0].shape[1]), *rows])


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 (H, W, 1 or 3), BGR, and the folder that it goes into."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def _bgr(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.shape[2] == 1 else cv2.COLOR_RGB2BGR)


def _tile(image: np.ndarray, cell: Sequence[int]) -> np.ndarray:
    """An image in the middle of a white cell; a small one grows by a whole factor, so that its pixels stay square."""
    scale = min(cell[0] / image.shape[0], cell[1] / image.shape[1])
    scale = int(scale) if scale > 1 else scale
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    image = cv2.resize(_bgr(image), (width, height), interpolation=cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA)
    top, left = (cell[0] - height) // 2, (cell[1] - width) // 2
    borders = (top + _GAP, cell[0] - height - top + _GAP, left + _GAP, cell[1] - width - left + _GAP)
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=_WHITE)


def _banner(lines: Sequence[str], width: int) -> np.ndarray:
    """Lines of text, black on white; one that is longer than `width` ends in two dots."""
    banner = np.full((_LINE * len(lines) + 10, width, 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        shown = line
        while shown and _text_width(shown) > width:
            line = line[:-1]
            shown = f"{line}.." if line else ""
        cv2.putText(banner, _ascii(shown), (_INDENT, _LINE * number), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return banner


def _text_width(line: str) -> int:
    return cv2.getTextSize(_ascii(line), _FONT, _SCALE, 1)[0][0] + 2 * _INDENT


def _ascii(line: str) -> str:
    return line.encode("ascii", "replace").decode()
