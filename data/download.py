"""Finding the files of a published data set, or having torchvision download them."""

from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from utils.errors import UserError, one_line


def find_files(folders: Sequence[Path], names: Sequence[str]) -> list[Path] | None:
    """The files or folders called `names`, plain or gzipped, in the first of `folders` that has them all."""
    for folder in folders:
        pairs = [(folder / name, folder / f"{name}.gz") for name in names]
        found = [next((path for path in pair if path.exists()), None) for pair in pairs]
        if all(found):
            return found
    return None


def find_or_download(
    root: Path,
    folders: Sequence[Path],
    names: Sequence[str],
    torchvision_name: str,
    hint: str = "",
    error: type[UserError] = UserError,
    **arguments: str,
) -> list[Path]:
    """The files `names` in one of `folders`, where they are or where torchvision has put them.

    Its data set `torchvision_name`, called with `root` and `arguments`, downloads them and checks their sums.
    Raises `error`, with the `hint` of another source, where that fails.
    """
    if found := find_files(folders, names):
        return found
    import torchvision

    problem = "torchvision has put other files there"
    try:
        getattr(torchvision.datasets, torchvision_name)(str(root), download=True, **arguments)
    except (OSError, RuntimeError, HTTPException) as failure:
        problem = one_line(failure)
    if found := find_files(folders, names):
        return found
    raise error(
        f"DATASETS.NAME: {torchvision_name}: no {', '.join(names)} in {', '.join(map(str, folders))}, and the download "
        f"failed ({problem}): put them into {folders[0]},{hint} or allow the download"
    )
