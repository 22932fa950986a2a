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
_MATRIX, _SIDE, _NAME = 640, 32, 160  # a confusion matrix, its cells and its names are at most so long
# Quick rather than small: the filters that OpenCV 4.12 tries unless told not to are for photographs.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    _PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]


def annotate(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """An image uint8 (H, W, 1 or 3), RGB, enlarged if it is small, with lines of text above it."""
    image = _bgr(image)
    width = max(_LEAST_WIDTH, *(text_width(line) for line in lines))
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
    images: Iterable[np.ndarray],
    columns: int,
    cell: Sequence[int],
    title: str,
    labels: Sequence[str | Sequence[str]] | None = None,
) -> np.ndarray:
    """Images uint8 (H, W, 1 or 3), RGB, each fitted into a `cell` of (height, width), `columns` in a row.

    The title stands above them all, its label above each: a line, or several, as many for all. The
    images have as many channels as one another, and so has the grid.
    """
    tiles = [_tile(image, cell) for image in images]
    channels = tiles[0].shape[2]
    if labels is not None:
        lines = [[label] if isinstance(label, str) else label for label in labels]
        banners = [_banner(label, cell[1] + 2 * _GAP, channels) for label in lines]
        tiles = [np.concatenate(pair) for pair in zip(banners, tiles, strict=True)]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return np.concatenate([_banner([title], rows[0].shape[1], channels), *rows])


def confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Counts int (classes, classes), rows the targets: the darker a cell, the larger its share of the row.

    Counts above 0 are written into the cells of up to 20 classes, the names of up to 32 beside them.
    Shades of gray uint8 (H, W, 1), because colours would take three times as long to write.
    """
    side = max(min(_MATRIX // len(classes), _SIDE), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = (255 * (1 - shares)).astype(np.uint8).repeat(side, axis=0).repeat(side, axis=1)[..., np.newaxis]
    if side == _SIDE:
        _write_counts(cells, counts, shares)
    if side >= _LINE:
        width = min(max(text_width(name) for name in classes), _NAME)
        names = np.concatenate([_banner([name], width, 1, side) for name in classes])
        # Turned to the left, the names of the rows are those of the columns.
        above = np.hstack([np.full((width, width, 1), 255, np.uint8), np.rot90(names)])
        cells = np.concatenate([above, np.hstack([names, cells])])
    return np.concatenate([_banner(["rows: targets, columns: predictions"], cells.shape[1], 1), cells])


def encode_png(picture: np.ndarray) -> bytes:
    """A picture uint8 (H, W, 1 or 3), BGR, as the content of a PNG file."""
    return cv2.imencode(".png", picture, _PNG)[1].tobytes()


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 (H, W, 1 or 3), BGR, and the folder that it goes into."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))


def _bgr(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.shape[2] == 1 else cv2.COLOR_RGB2BGR)


def _tile(image: np.ndarray, cell: Sequence[int]) -> np.ndarray:
    """An image in the middle of a white cell; a small one grows by a whole factor, so that its pixels stay square."""
    scale = min(cell[0] / image.shape[0], cell[1] / image.shape[1])
    scale = int(scale) if scale > 1 else scale
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    image = image if image.shape[2] == 1 else _bgr(image)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA)
    top, left = (cell[0] - height) // 2, (cell[1] - width) // 2
    borders = (top + _GAP, cell[0] - height - top + _GAP, left + _GAP, cell[1] - width - left + _GAP)
    tile = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=_WHITE)
    return tile.reshape(*tile.shape[:2], -1)  # OpenCV drops an only channel


def _write_counts(cells: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> None:
    """The counts above 0, all in one size, into cells of `_SIDE` pixels: white where the cell is dark."""
    scale = min((_SIDE - 4) / cv2.getTextSize(str(counts.max()), _FONT, 1, 1)[0][0], 0.4)
    for row, column in np.argwhere(counts):
        text = str(counts[row, column])
        (width, height), _ = cv2.getTextSize(text, _FONT, scale, 1)
        place = (column * _SIDE + (_SIDE - width) // 2, row * _SIDE + (_SIDE + height) // 2)
        colour = _WHITE if shares[row, column] > 0.5 else (0, 0, 0)
        cv2.putText(cells, text, place, _FONT, scale, colour, 1, cv2.LINE_AA)


def _banner(lines: Sequence[str], width: int, channels: int = 3, height: int | None = None) -> np.ndarray:
    """Lines of text, black on white; one that is longer than `width` ends in two dots."""
    needed = _LINE * len(lines) + 10
    height = height or needed
    banner = np.full((height, width, channels), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        shown = line
        while shown and text_width(shown) > width:
            line = line[:-1]
            shown = f"{line}.." if line else ""
        place = (_INDENT, _LINE * number + (height - needed) // 2)
        cv2.putText(banner, _ascii(shown), place, _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return banner


def text_width(line: str) -> int:
    return cv2.getTextSize(_ascii(line), _FONT, _SCALE, 1)[0][0] + 2 * _INDENT


def _ascii(line: str) -> str:
    return line.encode("ascii", "replace").decode()
