"""Images without labels."""

from collections.abc import Sequence
from pathlib import Path

from data.image_io import EncodedImage, printable


class ImageFiles:
    """A list of image files as a data set whose targets are all 0."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[EncodedImage, int]:
        return EncodedImage.open(self.paths[i]), 0

    def name(self, i: int) -> str:
        return printable(self.paths[i])
