"""Issues found in a data set, with the fault planted or with NumPy as the oracle."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data.check import (
    SEVERITY,
    Record,
    class_warning,
    count_classes,
    flag_groups,
    flag_issues,
    mean_std,
    scan,
    wide_warning,
)
from data.image_io import EncodedImage
from utils.errors import UserError

RNG = np.random.default_rng(0)


class Pictures:
    """A list of (source, target); a source that is an error is raised."""

    def __init__(self, samples: list[tuple[Any, Any]], classes=("cat", "dog", "owl")):
        self.samples = samples
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        if isinstance(self.samples[i][0], Exception):
            raise self.samples[i][0]
        return self.samples[i]

    def name(self, i: int) -> str:
        source = self.samples[i][0]
        return source.name if isinstance(source, EncodedImage) else f"picture {i}"


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, name: str, kind: str, **options: Any) -> EncodedImage:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return EncodedImage(stream.getvalue(), name)


def check(*, channels: int = 3, **splits: Pictures) -> dict[str, list[Record]]:
    records = {split: list(scan(dataset, split, channels)) for split, dataset in splits.items()}
    flag_issues([record for split in records.values() for record in split])
    return records


def test_groups_in_several_splits_are_flagged():
    splits = {split: Pictures([(noise(4, 4, 3), 0) for _ in range(3)]) for split in ("train", "val")}
    records = check(**splits)
    flag_groups(records, {"train": ["ann", "bob", "ann"], "val": ["eve", "ann", "eve"]})
    assert {split: statuses(found) for split, found in records.items()} == {
        "train": ["leaked", "ok", "leaked"],
        "val": ["ok", "leaked", "ok"],
    }
    assert records["val"][1].findings == (("leaked", "its group ann is in train too"),)


def statuses(records: list[Record]) -> list[str]:
    return [record.status for record in records]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_mean_and_deviation_are_those_of_all_pixels(channels):
    stored = max(channels, 3)
    images = [noise(*RNG.integers(1, 50, 2), stored) // np.uint8(RNG.integers(1, 9)) for _ in range(70)]
    images += [np.full((300, 400, stored), 255, np.uint8), np.zeros((1, 1, stored), np.uint8)]
    records = list(scan(Pictures([(image, 0) for image in images]), "train", channels))
    if channels == 1:
        images = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis] for image in images]
    pixels = np.concatenate([image.reshape(-1, channels) for image in images]) / 255
    mean, std = mean_std(records)
    assert mean == pytest.approx(pixels.mean(axis=0), rel=1e-12)
    assert std == pytest.approx(pixels.std(axis=0), rel=1e-11)
    assert [record.name for record in records] == [f"picture {i}" for i in range(72)]
    assert [(record.height, record.width) for record in records] == [image.shape[:2] for image in images]


def test_pixels_all_alike_have_no_deviation():
    assert mean_std(list(scan(Pictures([(np.full((99, 77, 1), 254, np.uint8), 0)] * 3), "train", 1)))[1] == [0]


def test_copies_are_told_apart_by_where_they_are():
    one, two, three, four = (noise(9, 9, 3) for _ in range(4))
    found = check(
        train=Pictures([(one, 0), (one, 0), (two, 0), (two, 1), (three, 2), (four, 2), (one, 0)]),
        test=Pictures([(three, 2), (four, 1), (noise(9, 9, 3), 0)]),
    )
    assert statuses(found["train"]) == [
        *("ok", "duplicate", "conflicting labels", "conflicting labels", "leaked", "leaked", "duplicate"),
    ]
    assert statuses(found["test"]) == ["leaked", "leaked", "ok"]
    assert found["train"][1].findings == (("duplicate", "same pixels as picture 0 (train: cat)"),)
    assert found["train"][3].findings == (("conflicting labels", "same pixels as picture 2 (train: cat / dog)"),)
    assert found["train"][5].findings == (("leaked", "same pixels as picture 1 (test: dog)"),)


def test_an_image_may_have_several_faults():
    one = noise(5, 5, 3)
    found = check(train=Pictures([(one, 0), (one, 1)]), val=Pictures([(one, 0)]), test=Pictures([(one, 0)]))
    assert [kind for kind, _ in found["train"][0].findings] == ["conflicting labels", "leaked", "leaked"]


def test_equal_bytes_in_another_shape_are_another_picture():
    pixels = noise(4, 9, 3)
    found = check(train=Pictures([(pixels, 0), (pixels.reshape(9, 4, 3), 1), (pixels.reshape(6, 6, 3), 2)]))
    assert statuses(found["train"]) == ["ok"] * 3


@pytest.mark.parametrize(
    ("one", "other", "status"),
    [
        ([1, 0, 0], [1, 0, 0], "duplicate"),
        ([1, 0, 0], [1, -1, -1], "duplicate"),
        ([1, 0, 0], [-1, 0, 0], "duplicate"),
        ([1, 0, 0], [0, 0, 0], "conflicting labels"),
        ([1, -1, 0], [-1, 1, 1], "conflicting labels"),
    ],
)
def test_several_labels_contradict_only_where_both_say_something(one, other, status):
    picture = noise(5, 5, 1)
    targets = [np.array(target, np.float32) for target in (one, other)]
    records = check(train=Pictures([(picture, target) for target in targets]), channels=1)["train"]
    assert records[1].status == status
    assert count_classes(records, 3) == [(t > 0).sum() for t in np.stack(targets).T]
    assert records[0].label == "cat" and records[0].status in ("ok", "conflicting labels")


def test_broken_images_have_a_reason_and_the_others_go_on():
    fine = encoded(Image.fromarray(noise(8, 8, 3)), "fine.png", "PNG")
    faults = {
        "cannot decode the image": (EncodedImage(b"<html>404</html>", "page.jpg"), 1),
        "the file is empty": (EncodedImage(b"", "empty.png"), 1),
        "Permission denied": (UserError("locked.png: cannot read the image: Permission denied"), 1),
        "found the target 3, expected an index below 3": (noise(8, 8, 3), 3),
        "found the target -1": (noise(8, 8, 3), -1),
        "found an array uint8 (0, 4, 3), expected uint8 (H, W) or (H, W, C), none of them 0": (noise(0, 4, 3), 1),
        "found an array float64": (np.zeros((4, 4, 3)), 1),
    }
    cut = EncodedImage(fine.data[: len(fine.data) // 2], "cut.png")
    records = check(train=Pictures([(fine, 0), *faults.values(), (cut, 0), (fine, 0)]))["train"]
    assert statuses(records) == ["ok", *["corrupt"] * (len(faults) + 1), "duplicate"]
    for record, expected in zip(records[1:], faults, strict=False):
        assert expected in record.findings[0][1]
    assert records[1].label == "dog" and records[3].label == "" and records[3].target is None
    assert not records[1].findings[0][1].startswith("page.jpg")  # the name stands beside it
    assert count_classes(records, 3) == [2, 0, 0]


def test_odd_files():
    photo = Image.fromarray(noise(60, 80, 3))
    glass = photo.copy()
    glass.putalpha(99)
    ordinary = [(encoded(Image.fromarray(noise(60, 80, 3)), f"{i}.PNG", "PNG"), 0) for i in range(5)]
    odd = {
        "a PNG file with the suffix of JPEG": encoded(Image.fromarray(noise(60, 80, 3)), "x.jpg", "PNG"),
        "60 x 80 x 1: most images have 3 channels": encoded(photo.convert("L"), "x.png", "PNG"),
        "60 x 80 x 4: most images have 3 channels": encoded(glass, "x.webp", "WEBP"),
        "11 x 13 x 3: small, the median of the shorter sides is 60": encoded(photo.resize((13, 11)), "x.bmp", "BMP"),
        "20 x 120 x 3: long, the median of the aspect ratios is 1.33": encoded(
            photo.resize((120, 20)), "x.tif", "TIFF"
        ),
    }
    usual = [
        encoded(photo.convert("P"), "palette.png", "PNG"),
        encoded(photo, "photo.jpeg", "JPEG"),
        encoded(photo.rotate(180), "of a phone.jpg", "MPO", save_all=True, append_images=[photo]),
        encoded(photo.resize((100, 20)), "no suffix", "PNG"),
    ]
    samples = ordinary + [(source, 0) for source in (*odd.values(), *usual)]
    found = check(train=Pictures(samples))["train"]
    assert statuses(found) == ["ok"] * 5 + ["unusual"] * len(odd) + ["ok"] * len(usual)
    assert [record.findings for record in found[5 : 5 + len(odd)]] == [(("unusual", why),) for why in odd]


def test_what_pillow_does_not_know_is_not_broken(monkeypatch):
    def refuse(stream):
        raise Image.DecompressionBombError("too large")

    source = encoded(Image.fromarray(noise(6, 6, 3)), "x.png", "PNG")
    monkeypatch.setattr(Image, "open", refuse)
    (record,) = check(train=Pictures([(source, 0)]))["train"]
    assert (record.status, record.channels) == ("ok", 3)


@pytest.mark.parametrize(
    ("counts", "warning"),
    [
        ((10, 100), None),
        ((100, 9), "1 of 2 classes have fewer than 10 images; a has 100 images, b 9"),
        ((10, 101), "b has 101 images, a 10"),
        ((0, 0), "2 of 2 classes have fewer than 10 images"),
    ],
)
def test_unequal_and_tiny_classes(counts, warning):
    said = class_warning(counts, ["a", "b"])
    assert said == warning


@pytest.mark.parametrize("wide", [0, 1, 2, 3, 10])
def test_letterbox_is_proposed_where_many_images_are_wide(wide):
    shapes = [((10, 20), (21, 10), (10, 90))[i % 3] if i < wide else (10, 19) for i in range(10)]
    said = wide_warning([Record("train", "", height=h, width=w) for h, w in shapes])
    assert (
        said is None
        if wide <= 2
        else said.startswith(f"{wide}0% of the images are at least 2 times") and "Letterbox" in said
    )


def test_numbers_and_masks_have_no_classes():
    one, mask = noise(5, 5, 3), np.zeros((5, 5), np.uint8)
    ages = [np.array([value], np.float32) for value in (0.0, 0.0, 1.0, 30.5)]
    records = check(train=Pictures([(one, age) for age in ages], classes=()))["train"]
    assert statuses(records) == ["conflicting labels"] * 4 and records[3].label == "30.5"
    same = check(train=Pictures([(one, ages[3]), (one, ages[3])], classes=()))["train"]
    assert statuses(same) == ["ok", "duplicate"]
    masks = check(train=Pictures([(one, mask), (noise(5, 5, 3), mask + 1)], classes=["road"]))["train"]
    assert statuses(masks) == ["ok", "ok"] and masks[0].label == ""


def test_large_images_are_refused_before_they_are_decoded():
    photo = encoded(Image.fromarray(noise(20, 30, 3)), "x.png", "PNG")
    (record,) = scan(Pictures([(photo, 0)]), "train", 3, max_pixels=599)
    assert (
        record.status == "corrupt" and "30 x 20 pixels are more than DATASETS.MAX_PIXELS 599" in record.findings[0][1]
    )


def test_a_data_set_that_is_not_thread_safe_is_read_by_one_thread():
    import threading

    class Watched(Pictures):
        threads = set()

        def __getitem__(self, i):
            self.threads.add(threading.current_thread())
            return super().__getitem__(i)

    list(scan(Watched([(noise(4, 4, 3), 0)] * 200), "train", 3))
    assert len(Watched.threads) == 1


def test_statuses_are_ordered_by_severity():
    assert list(SEVERITY.values()) == sorted(SEVERITY.values())
