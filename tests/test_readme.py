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

from config.defaults import default_config
from config.node import leaves

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "configs", "data", "engine", "layers", "modeling", "solver", "tools", "utils")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "README.zh.md", "CONTRIBUTING.md", "docs/extending.md")


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)


def place_files(folder: Path, page: list[tuple[str, str]]) -> None:
    """Writes each file of a page where its first line, a comment, says."""
    for language, code in page:
        if language not in ("bash", "text"):
            (folder / re.match(r"# (\S+)\n", code)[1]).write_text(code, encoding="utf-8")


def write_image(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.zeros((40, 40, 3), np.uint8))


def test_both_languages_have_the_same_code():
    without_comments = [
        [(language, re.sub(r" +#.*", "", code)) for language, code in blocks(name) if language != "text"]
        for name in ("README.md", "README.zh.md")
    ]
    assert without_comments[0] == without_comments[1]
    assert len(without_comments[0]) == 8


def test_both_languages_have_the_same_structure():
    def outline(name: str) -> list[str]:
        return re.findall(r"^(#+ |\||- |```)", (ROOT / name).read_text(encoding="utf-8"), re.M)

    assert outline("README.md") == outline("README.zh.md")


def test_both_languages_have_the_same_links_and_numbers():
    def facts(name: str) -> list[str]:
        return sorted(re.findall(r"\d+\.\d+ ?%|\]\([\w/.]+\)|`[^`\n]+`", (ROOT / name).read_text(encoding="utf-8")))

    english, chinese = facts("README.md"), facts("README.zh.md")
    english.remove("](README.zh.md)")
    chinese.remove("](README.md)")
    assert english == chinese


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name):
    page = ROOT / name
    for target, anchor in re.findall(r"\]\(([\w/.]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {target}#{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_files_and_keys_that_are_named_exist(name):
    """In inline code: files and folders of the project, and keys of the configuration."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    known = leaves(default_config())
    sections = {key.rpartition(".")[0] for key in known}
    for code in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(rf"({'|'.join((*FOLDERS, 'tests', 'docs'))})/[\w/.-]*", code):
            assert (ROOT / code).exists(), f"{name}: {code}"
        for key in re.findall(r"\b[A-Z]+\.[A-Z_.]+[A-Z]\b", code):
            assert key in known or key in sections, f"{name}: {key}"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("image.jpg", "images/other.png"):
        write_image(folder / name)
    return folder


# Runs commands of the form `python tools/x.py ...` one after the other in one process.
DRIVER = """
import runpy, shlex, sys
from utils import cli
cli._leave = sys.exit
for line in sys.argv[1].splitlines():
    sys.argv = shlex.split(line)[1:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"exit code {end.code}: {line}")
"""


def run_commands(folder: Path, page: list[tuple[str, str]], checks: str = "") -> str:
    """Places the files of a page in a folder and runs its commands and `checks` there; returns what they printed."""
    place_files(folder, page)
    commands = "".join(code for language, code in page if language == "bash")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tools')\n{DRIVER}\n{checks}", commands],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_code_runs(clone):
    """The files are put where they say, then the commands run in order, in one process to import torch only once."""
    page = blocks("README.md")
    output = run_commands(clone, page)
    first, resumed = sorted((clone / "runs/digits").iterdir())  # trained, and started afresh by --resume
    assert (first / "report/val/index.html").exists()
    scores = json.loads((resumed / "report/test/metrics.json").read_text())  # of the newest run; chance is 0.1
    assert scores["task"] == "classification" and scores["top1"] > 0.2
    (added,) = (clone / "runs/default").iterdir()
    assert "MyNet" in (added / "overrides.yml").read_text()
    for name in re.findall(r"^\| `([^|]+)` \|", re.search(r"in a run folder.*?\n\n", README, re.S)[0], re.M):
        for file in name.split("`, `"):
            assert (added / file).exists(), file
    labels = re.findall(r"'(\d)'", output.splitlines()[-1])  # printed by predict.py
    assert len(set(labels)) == 3
