"""Pictures with words on them."""

from collections.abc import Sequence

import cv2
import numpy as np

_FONT, _SCALE, _LINE = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 20
_LEAST_WIDTH = 320
_WHITE = (255, 255, 255)


def annotate(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """An image uint8 (H, W, 1 or 3), RGB, enlarged if it is small, with lines of text above it, as BGR.

    OpenCV's font has ASCII letters only; others are shown as question marks.
    """
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.shape[2] == 1 else cv2.COLOR_RGB2BGR)
    lines = [line.encode("ascii", "replace").decode() for line in lines]
    width = max(_LEAST_WIDTH, *(cv2.getTextSize(line, _FONT, _SCALE, 1)[0][0] + 16 for line in lines))
    scale = min(width / image.shape[1], _LEAST_WIDTH / image.shape[0])
    if scale > 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    missing = max(width - image.shape[1], 0)
    image = cv2.copyMakeBorder(image, 0, 0, 0, missing, cv2.BORDER_CONSTANT, value=_WHITE)
    banner = np.full((_LINE * len(lines) + 10, image.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        cv2.putText(banner, line, (8, _LINE * number), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([banner, image])
