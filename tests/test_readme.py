"""The code in README.md runs as it stands, and README.zh.md has the same."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ("config", "configs", "data", "engine", "layers", "modeling", "solver", "tools", "utils")


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)


def test_both_languages_have_the_same_code():
    without_comments = [
        [(language, re.sub(r" +#.*", "", code)) for language, code in blocks(name) if language != "text"]
        for name in ("README.md", "README.zh.md")
    ]
    assert without_comments[0] == without_comments[1]
    assert len(without_comments[0]) == 9


def test_both_languages_have_the_same_links_and_numbers():
    def facts(name: str) -> list[str]:
        return sorted(re.findall(r"\d+\.\d+ ?%|\]\([\w/.]+\)|`[^`\n]+`", (ROOT / name).read_text(encoding="utf-8")))

    english, chinese = facts("README.md"), facts("README.zh.md")
    english.remove("](README.zh.md)")
    chinese.remove("](README.md)")
    assert english == chinese


def test_every_file_that_is_linked_exists():
    for name in ("README.md", "README.zh.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([\w/.]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{name}: {target}"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    for name in HOUSE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "images").mkdir()
    for name in ("image.jpg", "images/other.png"):
        cv2.imwrite(str(folder / name), np.zeros((40, 40, 3), np.uint8))
    return folder


# Runs commands of the form `python tools/x.py ...` one after the other in one process.
DRIVER = """
import runpy, shlex, sys
for line in sys.argv[1].splitlines():
    sys.argv = shlex.split(line)[1:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"exit code {end.code}: {line}")
"""


def test_the_code_runs(clone):
    """The files are put where they say, then the commands run in order, in one process to import torch only once."""
    commands = ""
    for language, code in blocks("README.md"):
        if language == "python":
            (clone / re.match(r"# (\S+\.py)\n", code)[1]).write_text(code, encoding="utf-8")
        elif language == "bash":
            commands += code
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tools')\n{DRIVER}", commands],
        cwd=clone,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((clone / "runs/digits").iterdir())) == 2  # trained, and started afresh by --resume
    assert len(list((clone / "runs/default").iterdir())) == 2  # the model and the data set that were added
    metrics = (max((clone / "runs/default").iterdir()) / "report/metrics.json").read_text()
    assert json.loads(metrics)["top1"] > 0.95  # the stripes are learnt
