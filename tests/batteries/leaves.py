"""Every leaf can be deleted: all else still imports, trains, reports and collects its tests. Run by `make test-leaves`.

Leaves are deleted one by one, each with the leaves that import it, in a copy of the project. Each check runs in a
fork of this process, which has imported the libraries, and nothing of the project once that is forgotten.
"""

import importlib
import os
import runpy
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pytest
import sklearn.metrics  # noqa: F401
import torch
import torch.utils.tensorboard
import torchvision  # noqa: F401

from tests.test_architecture import FILES, FOLDERS, LEAVES, ROOT, imports_of, parse, relative

SECONDS = 300  # that a check may take
TRAINING = "DATASETS.TRAIN_SUBSET 200 SOLVER.MAX_EPOCHS 1 LOG.PERIOD 2 MODEL.DEVICE cpu SOLVER.AMP off".split()
CASES = {"nothing": frozenset[Path](), **{relative(leaf): group for leaf, group in LEAVES.items()}}

torch.optim.SGD([torch.zeros(1)], lr=1.0)  # imports what every optimizer needs


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project."""
    folder = tmp_path_factory.mktemp("leaves") / "project"
    for name in (*FOLDERS, "configs", "docs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / "pyproject.toml", *ROOT.glob("*.md")):
        shutil.copy2(file, folder)
    return folder


@contextmanager
def deleted(project: Path, files: frozenset[Path]) -> Iterator[None]:
    copies = [project / relative(file) for file in files]
    for file in copies:
        file.rename(file.with_name(f"{file.name}.deleted"))
    try:
        yield
    finally:
        for file in copies:
            file.with_name(f"{file.name}.deleted").rename(file)
        shutil.rmtree(project / "runs", ignore_errors=True)


def in_fork(check: Callable[[frozenset[Path]], None], files: frozenset[Path], project: Path, output: Path) -> int:
    """Runs a check in the folder of the copy; returns its exit code, 0 if all is well."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.alarm(SECONDS)
        with output.open("w", buffering=1) as stream:
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
            sys.stdout = sys.stderr = stream
            for name in [name for name in sys.modules if name.split(".")[0] in (*FOLDERS, "tests", "_path", "_common")]:
                del sys.modules[name]
            os.chdir(project)
            sys.path[:] = [str(project), *(path for path in sys.path if path not in ("", str(ROOT)))]
            try:
                check(files)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(code)


def import_all_else(files: frozenset[Path]) -> None:
    sys.path.insert(0, "tools")  # as for a tool that is run
    for file in sorted(set(FILES) - files):
        name = relative(file).removesuffix(".py").removesuffix("/__init__").removeprefix("tools/")
        importlib.import_module(name.replace("/", "."))


def train_and_test(files: frozenset[Path]) -> None:
    run_tool("tools/train_net.py", *TRAINING)
    assert len(list(Path("runs").glob("*/*/report/index.html"))) == 1
    if ROOT / "tools/test_net.py" not in files:
        run_tool("tools/test_net.py")
        assert len(list(Path("runs").glob("*/*/report/test/index.html"))) == 1


def run_tool(*words: str) -> None:
    sys.argv = list(words)
    sys.path.insert(0, str(Path(words[0]).parent.resolve()))
    importlib.import_module("utils.cli")._leave = sys.exit
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"exit code {end.code}: {' '.join(words)}"


def collect_other_tests(files: frozenset[Path]) -> None:
    ignored = [f"--ignore={relative(path)}" for path in importing_tests(files)]
    code = pytest.main(["--collect-only", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *ignored])
    assert code == 0, f"pytest: exit code {code}"


def importing_tests(files: frozenset[Path]) -> set[Path]:
    """Returns the test files that import one of `files`, and those that import such a test file."""
    imports = {path: imports_of(parse(path)) for path in (ROOT / "tests").rglob("*.py")}
    gone = set(files)
    while more := {path for path, names in imports.items() if names & {*map(module_name, gone)}} - gone:
        gone |= more
    return gone - files


def module_name(path: Path) -> str:
    return relative(path).removesuffix(".py").replace("/", ".")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("check", [import_all_else, train_and_test, collect_other_tests])
def test_without(case: str, check: Callable, project: Path, tmp_path: Path):
    output = tmp_path / "output.txt"
    with deleted(project, CASES[case]):
        code = in_fork(check, CASES[case], project, output)
    assert code == 0, f"{check.__name__} without {', '.join(map(relative, CASES[case]))}:\n{output.read_text()[-3000:]}"
