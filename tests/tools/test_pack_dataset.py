"""Packs: written once, continued after a kill, read as their source, refused when they are out of date."""

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config import load_config
from config.changes import check_test_overrides, compare
from data.build import build_split, build_train_and_val, build_train_loader, dataset_defaults
from data.image_io import BrokenImage, EncodedImage, to_pixels
from data.packed import ROW, Packed
from modeling.build import build_input_spec
from utils.errors import UserError

FOLDER = "DATASETS.NAME image_folder DATASETS.ROOT photos INPUT.SIZE [8,8]".split()
RANDOM = ["INPUT.TRAIN_TRANSFORMS", "[{RandomResizedCrop: {scale: [0.3, 1]}}, HFlip]", "SOLVER.BATCH_SIZE", "4"]
PACK = ["DATASETS.PACKED", "a.pack"]
SIZE = ["--output", "a.pack", "--size", "20"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Colours and gray, larger and smaller than 20 pixels, lying and standing."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(count):
                path = tmp_path / "photos" / split / name / f"{i:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shape = ((31, 45), (60, 23), (12, 50))[i % 3] + ((3,) if i % 2 else ())
                cv2.imwrite(str(path), rng.integers(0, 256, shape, dtype=np.uint8))
    return tmp_path / "photos"


def batches(words: list[str]) -> list:
    cfg = load_config(None, words)
    train = build_train_and_val(cfg).train
    loader = build_train_loader(cfg, train, build_input_spec(cfg, dataset_defaults(cfg)))
    try:
        return [(b.indices.tolist(), b.targets.tolist(), b.images.clone()) for b in loader.batches()]
    finally:
        loader.close()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pack_is_its_source_resized_by_area(tool, photos, channels):
    words = [*FOLDER, "INPUT.CHANNELS", str(channels)]
    done = tool("pack_dataset", *words, *SIZE)
    assert done.code == 0 and "a.pack: 30 images" in done.out and done.out.count("training images/s") == 2
    assert sorted(path.name for path in Path().iterdir()) == ["a.pack", "a.pack.index", "photos"]
    for name in ("a.pack", "a.pack.index"):
        os.chmod(name, 0o444)
    for split in ("train", "test"):
        source = build_split(load_config(None, words), split)
        pack = build_split(load_config(None, [*words, *PACK]), split)
        assert isinstance(pack, Packed) and pack.thread_safe and len(pack) == len(source)
        assert pack.classes == source.classes and np.array_equal(pack.targets, source.targets)
        for i in range(len(source)):
            image = to_pixels(source[i][0], channels)
            height, width = image.shape[:2]
            if (scale := 20 / min(height, width)) < 1:
                size = round(width * scale), round(height * scale)
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], channels)
            pixels, target = pack[i]
            assert np.array_equal(pixels, image) and target == source[i][1] and type(target) is type(source[i][1])
            assert pack.name(i) == source.name(i) and not pixels.flags.writeable


@pytest.mark.parametrize("group", ["", "content", r"(?P<group>\d)\.png"])
def test_a_pack_is_split_and_ordered_as_its_source(tool, photos, group):
    for name in ("a", "b"):  # of equal bytes; and of equal size and pixels with other bytes
        shutil.copy(photos / "train/cat/01.png", photos / f"train/cat/{name}.png")
    data = (photos / "train/cat/01.png").read_bytes()
    (photos / "train/dog/c.png").write_bytes(data + b"1")
    (photos / "train/dog/d.png").write_bytes(data + b"2")
    words = [*FOLDER, *RANDOM, "DATASETS.VAL_RATIO", "0.3", "DATASETS.GROUP", group]
    assert tool("pack_dataset", *words, *SIZE).code == 0
    source, pack = (build_train_and_val(load_config(None, [*words, *more])) for more in ([], PACK))
    for column in ("names", "fingerprints", "parts"):
        assert np.array_equal(getattr(source.record, column), getattr(pack.record, column))
    assert [batch[:2] for batch in batches(words)] == [batch[:2] for batch in batches([*words, *PACK])]


def test_arrays_in_memory(tool):
    words = ["SOLVER.BATCH_SIZE", "256"]
    assert tool("pack_dataset", *SIZE).code == 0
    for (*facts, images), (*packed_facts, packed_images) in zip(batches(words), batches([*words, *PACK]), strict=True):
        assert facts == packed_facts and torch.equal(images, packed_images)
    dataset = build_split(load_config(None, []), "train")
    dataset.images = dataset.images.copy()
    dataset.images[7, 0, 0] ^= 1
    with pytest.raises(UserError, match="1437 images, 1 of them new or changed") as error:
        Packed(dataset, "a.pack", "train", 1)
    assert dataset.name(7) in str(error.value)


def test_processes_read_what_threads_read(tool, photos):
    words = [*FOLDER, *RANDOM, *PACK, "DATALOADER.NUM_WORKERS", "1", "DATALOADER.WORKER_KIND"]
    assert tool("pack_dataset", *words, "threads", *SIZE).code == 0
    threads = batches([*words, "threads"])
    for kind in ("fork", "spawn"):
        for (*facts, images), (*other, others) in zip(threads, batches([*words, kind]), strict=True):
            assert facts == other and torch.equal(images, others)
    pack = build_split(load_config(None, words[:-3]), "train")
    assert len(pickle.dumps(pack)) < 10_000 < os.path.getsize("a.pack")


SLOW = """
import sys, time
sys.path[:0] = [{tools!r}, {root!r}]
import data.packed, pack_dataset
from utils.cli import run
read = data.packed.to_pixels
data.packed.to_pixels = lambda *args: (time.sleep(0.004), read(*args))[1]
run(pack_dataset.main)
"""


def test_a_pack_that_was_killed_is_continued(tool, start, tmp_path):
    """Three kills, the last writes cut or damaged, give the bytes of a run that was not stopped."""
    tools = Path(__file__).resolve().parents[2] / "tools"
    (tmp_path / "slow.py").write_text(SLOW.format(tools=str(tools), root=str(tools.parent)))
    assert tool("pack_dataset", "--output", "whole.pack").code == 0
    part, journal = tmp_path / "a.pack.part", tmp_path / "a.pack.index.part"
    process = start(tmp_path / "slow", "--output", "a.pack")
    deadline = time.monotonic() + 30
    while not (journal.exists() and journal.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "a.pack").exists()
    header = len(journal.read_bytes().partition(b"\n")[0]) + 1
    rows = (journal.stat().st_size - header) // ROW.itemsize
    assert 200 < rows < 1700
    for damage in (b"", b"x" * 3):
        part.write_bytes(part.read_bytes()[: 100 * 64 + 1] + damage)  # image 100 is not whole, or not right
        copies = part.read_bytes(), journal.read_bytes()
        done = tool("pack_dataset", "--output", "a.pack")
        assert done.code == 0 and "a.pack.part: kept 100 images" in done.err
        for suffix in ("", ".index"):
            assert Path(f"a.pack{suffix}").read_bytes() == Path(f"whole.pack{suffix}").read_bytes()
        part.write_bytes(copies[0])
        journal.write_bytes(copies[1])
    for words in (["--size", "4"], ["INPUT.CHANNELS", "3"]):
        shutil.copy("whole.pack", part)
        shutil.copy("whole.pack.index", journal)
        assert "kept" not in tool("pack_dataset", "--output", "a.pack", *words).err


def change_index(key: str, value: object) -> None:
    line, end, rows = Path("a.pack.index").read_bytes().partition(b"\n")
    Path("a.pack.index").write_bytes(json.dumps(json.loads(line) | {key: value}).encode() + end + rows)


def cut(name: str, count: int) -> None:
    Path(name).write_bytes(Path(name).read_bytes()[:-count])


CAT = "photos/train/cat"
STALE = {
    "added": (
        lambda: shutil.copy(f"{CAT}/01.png", f"{CAT}/x.png"),
        "25 images, 1 of them new or changed, such as train/cat/x",
    ),
    "removed": (lambda: os.unlink(f"{CAT}/01.png"), "found 23 images, expected 24"),
    "renamed": (
        lambda: os.rename(f"{CAT}/01.png", f"{CAT}/y.png"),
        "24 images, 1 of them new or changed, such as train/cat/y",
    ),
    "time": (
        lambda: os.utime(f"{CAT}/01.png", (1, 1)),
        "new or changed, such as train/cat/01.png, expected 24; restore",
    ),
    "size": (
        lambda: Path(f"{CAT}/01.png").open("ab").write(b"1"),
        "1 of them new or changed, such as train/cat/01.png",
    ),
    "version": (lambda: change_index("version", 2), "found 2 version, expected 1"),
    "cut": (lambda: cut("a.pack", 1), "bytes, expected"),
    "cut index": (lambda: cut("a.pack.index", 1), "found 29 images, expected 30"),
    "no index": (lambda: os.unlink("a.pack.index"), "cannot read it: [Errno 2] No such file"),
    "no pack": (lambda: os.unlink("a.pack"), "cannot read it: [Errno 2] No such file"),
    "another file": (lambda: Path("a.pack.index").write_text("[1]"), "cannot read it"),
}


@pytest.mark.parametrize("change", STALE)
def test_a_pack_out_of_date_is_refused(tool, photos, change):
    assert tool("pack_dataset", *FOLDER, *SIZE).code == 0
    function, found = STALE[change]
    stamp = os.stat(f"{CAT}/01.png")
    function()
    if change == "size":
        os.utime(f"{CAT}/01.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(UserError) as error:
        build_split(load_config(None, [*FOLDER, *PACK]), "train")
    message = str(error.value)
    assert found in message and f"DATASETS.PACKED {Path('a.pack').absolute()}: " in message and "\n" not in message
    assert message.endswith("run tools/pack_dataset.py again")
    assert tool("pack_dataset", *FOLDER, *PACK, *SIZE).code == 0
    build_split(load_config(None, [*FOLDER, *PACK]), "train")


def test_other_channels_and_another_split_are_refused_another_order_is_not(tool, photos):
    assert tool("pack_dataset", *FOLDER, *SIZE).code == 0
    with pytest.raises(UserError, match="found 3 channels, expected 1"):
        build_split(load_config(None, [*FOLDER, *PACK, "INPUT.CHANNELS", "1"]), "train")
    shutil.copytree("photos/test", "photos/val")
    with pytest.raises(UserError, match="val: found 6 images, 6 of them new or changed"):
        build_split(load_config(None, [*FOLDER, *PACK]), "val")
    dataset = build_split(load_config(None, FOLDER), "train")
    usual = Packed(dataset, "a.pack", "train", 3)
    before = [usual[i][0] for i in range(24)]
    order = np.random.default_rng(0).permutation(24)
    shuffled = type(dataset).__new__(type(dataset))
    super(type(dataset), shuffled).__init__(dataset.root, [dataset._stored(i) for i in order], dataset.targets[order])
    pack = Packed(shuffled, "a.pack", "train", 3)
    assert all(np.array_equal(pack[k][0], before[i]) and pack[k][1] == usual[i][1] for k, i in enumerate(order))


def test_a_corrupt_image_stops_or_is_left_out(tool, photos):
    (photos / "train/dog/03.png").write_bytes(b"\x89PNG")
    line = tool("pack_dataset", *FOLDER, *SIZE).error()
    assert "error: train/dog/03.png: cannot decode the image" in line and not Path("a.pack").exists()
    os.utime(photos / "train/cat/05.png", (1, 1))  # changed in between: what is written from there on is not kept
    skip = [*FOLDER, *RANDOM, "DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "0.1"]
    done = tool("pack_dataset", *skip, *SIZE)
    assert done.code == 0 and "kept 5 images" in done.err
    assert "train/dog/03.png: cannot decode the image" in done.err and "a.pack: 29 images" in done.out
    assert "1 were skipped" in done.out
    pack = build_split(load_config(None, [*skip, *PACK]), "train")
    assert sum(isinstance(pack.unpacked[i][0], EncodedImage) for i in range(24)) == 24
    with pytest.raises(BrokenImage, match="dog/03.png: could not be read when"):
        pack[15]
    assert [batch[:2] for batch in batches(skip)] == [batch[:2] for batch in batches([*skip, *PACK])]


def test_mistakes(tool, photos, tmp_path):
    assert "--size: found 0, expected at least 1" in tool("pack_dataset", "--size", "0").error()
    cv2.imwrite(str(photos / "train/cat/four.png"), np.zeros((9, 9, 4), np.uint8))
    assert "INPUT.CHANNELS is 5" in tool("pack_dataset", *FOLDER, "INPUT.CHANNELS", "5").error()
    assert not Path("dataset.pack").exists()


def test_a_pack_is_fixed_when_resuming_and_free_in_a_test(photos):
    saved, new = load_config(None, [*FOLDER, *PACK]), load_config(None, FOLDER)
    with pytest.raises(UserError, match="DATASETS.PACKED: a.pack -> '': cannot be changed when resuming"):
        compare(saved, new)
    check_test_overrides(saved, new)
