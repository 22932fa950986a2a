"""Photographs to read: crops of those that installed libraries carry, enlarged, with a little grain, saved as JPEG.

They are the same on every machine with the same libraries, and are made once for each folder.
"""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib import cbook
from sklearn.datasets import load_sample_images

QUALITY, CLASSES = 90, 8
GRAIN = 4, 12  # standard deviations of the noise: 500 x 375 pixels take 55 to 95 kB, 2000 x 1500 about 1 MB
OF_SKIMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@dataclass(frozen=True)
class Photographs:
    """A number of JPEG files of one size, in as many folders as there are classes."""

    width: int
    height: int
    count: int

    def make(self, folder: Path) -> Path:
        """Makes those that `folder` does not have yet; returns the folder of the class folders."""
        made = folder / f"photographs_{self.width}x{self.height}_{self.count}"
        if not made.is_dir():
            unfinished = made.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            originals = find_originals()
            for i in range(self.count):
                path = unfinished / f"class_{i % CLASSES}" / f"{i:04d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = self.draw(originals, np.random.default_rng((self.width, i)))
                path.write_bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
            unfinished.rename(made)
        return made

    def draw(self, originals: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """Draws a part of one of the originals at this size, uint8 (H, W, 3)."""
        original = originals[rng.integers(len(originals))]
        height, width = original.shape[:2]
        part_width = int(rng.uniform(0.5, 1) * min(width, height * self.width / self.height))
        part_height = part_width * self.height // self.width
        top, left = rng.integers(height - part_height + 1), rng.integers(width - part_width + 1)
        part = original[top : top + part_height, left : left + part_width]
        pixels = cv2.resize(part, (self.width, self.height), interpolation=cv2.INTER_CUBIC)[:, :: rng.choice((-1, 1))]
        grain = rng.standard_normal((self.height, self.width, 1), np.float32) * np.float32(rng.uniform(*GRAIN))
        return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def find_originals() -> list[np.ndarray]:
    """Returns the photographs of scikit-learn and Matplotlib, and of scikit-image where it is installed, in BGR."""
    files = [Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))]
    spec = importlib.util.find_spec("skimage")
    if spec is not None and spec.origin:
        files += [path for name in OF_SKIMAGE if (path := Path(spec.origin).parent / "data" / name).is_file()]
    return [image[..., ::-1] for image in load_sample_images().images] + [cv2.imread(str(file)) for file in files]
