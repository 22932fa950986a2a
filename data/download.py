"""Finding the files of a published data set, or downloading them with torchvision."""

from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

from utils.errors import UserError, one_line


def find_files(folders: Sequence[Path], names: Sequence[str]) -> list[Path] | None:
    """Returns the files or folders `names`, plain or gzipped, from the first of `folders` that has them all."""
    for folder in folders:
        pairs = [(folder / name, folder / f"{name}.gz") for name in names]
        found = [path for pair in pairs if (path := next(filter(Path.exists, pair), None))]
        if len(found) == len(names):
            return found
    return None


def find_or_download(
    root: Path,
    folders: Sequence[Path],
    names: Sequence[str],
    torchvision_name: str,
    error: type[UserError] = UserError,
    arguments: Mapping[str, str] | None = None,
) -> list[Path]:
    """Returns the files `names` from one of `folders`, else downloaded and checked by torchvision.

    Its data set `torchvision_name` is called with `root` and `arguments`. Raises `error` if that fails.
    """
    unfinished = root / f".{torchvision_name}.unfinished"  # a download that was stopped leaves parts of files
    if not unfinished.exists() and (found := find_files(folders, names)):
        return found
    import torchvision

    problem = "torchvision has put other files there"
    try:
        root.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        getattr(torchvision.datasets, torchvision_name)(str(root), download=True, **(arguments or {}))
        unfinished.unlink()
    except (OSError, RuntimeError, HTTPException) as failure:
        problem = one_line(failure)
    if found := find_files(folders, names):
        return found
    missing = f"no {', '.join(names)} in {', '.join(map(str, folders))}, and the download failed ({problem})"
    raise error(f"DATASETS.NAME: {torchvision_name}: {missing}: put them into {folders[0]}, or allow the download")
