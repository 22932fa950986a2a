"""Tables of images and labels, as people and their spreadsheets write them."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from config import load_config
from data.build import build_eval_loader, build_split, build_train_and_val, build_train_loader
from data.datasets.csv_table import CsvTable
from data.registry import MissingSplit
from data.subset import Subset
from engine.tasks.classification import Classification, guess_task
from utils.contracts import InputSpec, output_names
from utils.errors import UserError
from utils.labels import label_text


@pytest.fixture
def table(tmp_path):
    """table(text) -> the folder of a labels.csv with this text, beside images/1.png to 5.png, each of its own gray."""
    (tmp_path / "images").mkdir()
    for i in range(1, 6):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((6, 7, 3), i, np.uint8))
    (tmp_path / "images" / "a, b.png").write_bytes((tmp_path / "images" / "1.png").read_bytes())

    def write(text: str | bytes, name: str = "labels.csv") -> Path:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


def test_single_labels_in_splits(table):
    root = table(
        "path,split,label\n"
        "images/1.png,train,dog\nimages/2.png,val,cat\nimages/3.png,train,cat\nimages/4.png,test,dog\n"
    )
    train = CsvTable(root, "train")
    assert train.classes == ["cat", "dog"] and train.targets.tolist() == [1, 0] and train.targets.dtype == np.int64
    assert train.weights is None
    source, target = train[1]
    assert source.read(3)[0, 0, 0] == 3 and target == 0 and isinstance(target, int)
    assert train.name(1) == "images/3.png"
    for split, expected in (("val", [0]), ("test", [1])):
        for classes in (train.classes, None):
            part = CsvTable(root, split, classes)
            assert part.targets.tolist() == expected and part.classes == train.classes
    assert CsvTable(root, "val", ["ape", "cat"]).targets.tolist() == [1]  # the classes of a checkpoint


def test_several_labels_and_weights(table):
    root = table(
        "path,label,split,weight\n"
        "images/1.png,cat,train,0.5\nimages/2.png,dog,train,2\nimages/3.png,dog | cat,val,1\nimages/4.png,owl,train,0\n"
    )
    splits = build_train_and_val(load_config(None, ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root)]))
    train, val = splits.train, splits.val
    assert train.classes == ["cat", "dog", "owl"]
    assert train.targets.dtype == np.float32 and np.array_equal(train.targets, np.eye(3))  # one row says it for all
    assert val.targets.tolist() == [[1, 1, 0]] and val[0][1].tolist() == [1, 1, 0]
    assert train.weights.dtype == np.float32 and train.weights.tolist() == [0.5, 2, 0]


def test_validation_can_be_held_out_of_several_labels(table):
    root = table("path,label\n" + "".join(f"images/{i}.png,{label}\n" for i, label in enumerate(["a|b", "b"] * 5)))
    words = ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root), "DATASETS.VAL_RATIO", "0.2"]
    splits = build_train_and_val(load_config(None, words))
    train, val = splits.train, splits.val
    assert train.targets.shape == (8, 2) and val.targets.sum(axis=0).tolist() == [1, 2]


def test_without_splits_all_is_for_training(table):
    root = table("label,path\ncat,images/1.png\ndog,images/2.png\n")
    assert len(CsvTable(root, "train")) == 2
    for split in ("val", "test"):
        with pytest.raises(MissingSplit, match=f"labels.csv: no rows of the {split} split"):
            CsvTable(root, split, ["cat", "dog"])


def test_spreadsheets(table):
    """A byte order mark, ends of lines with a carriage return, quotes, blank lines, another column, umlauts."""
    root = table(
        '\ufeff"path",label , note\r\n"images/a, b.png","Küken, gelb",x\r\n\r\nimages/2.png,"say ""cat""","two\r\n'
        'lines"\r\nimages/3.png, cat,\r\n',
    )
    train = CsvTable(root, "train")
    assert train.classes == ["Küken, gelb", "cat", 'say "cat"'] and train.targets.tolist() == [0, 2, 1]
    assert train.name(0) == "images/a, b.png"


def test_a_table_in_a_folder_of_its_own(table):
    root = table("path,label\n1.png,cat\n2.png,dog\n", "images/other.csv")
    words = ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root), "DATASETS.file", "images/other.csv"]
    assert build_split(load_config(None, words), "train").name(1) == "2.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":0: no column 'path', found nothing; expected path,label"),
        ("path;label\nimages/1.png;cat\n", ":1: no column 'path', found path;label; expected"),
        ("path,class\nimages/1.png,cat\n", ":1: no column 'label', found path,class; expected"),
        ("path,label\nimages/1.png,cat\nimages/2.png,\n", ":3: the label is empty"),
        ("path,label\nimages/1.png\n", ":2: found 1 cells, expected 2; quote a cell"),
        ("path,label\nimages/1.png,cat||dog\n", ":2: found 'cat||dog', with an empty label"),
        ("path,label\nimages/1.png,cat, black\n", ":2: found 3 cells, expected 2; quote a cell"),
        ("path,label,split\nimages/1.png,cat,trian\n", ":2: split 'trian', expected train, val or test"),
        ("path,label,split\nimages/1.png,cat,\n", ":2: split '', expected"),
        ("path,label,weight\nimages/1.png,cat,heavy\n", ":2: weight 'heavy', expected a finite number"),
        ("path,label,weight\nimages/1.png,cat,-1\n", ":2: weight -1.0, expected a number from 0 up"),
        ("path,label,weight\nimages/1.png,cat,nan\n", ":2: weight 'nan', expected"),
        ("path,label,weight\nimages/1.png,cat,inf\n", ":2: weight 'inf', expected"),
        ("path,label,weight\nimages/1.png,cat,\n", ":2: weight '', expected a finite"),
        ('path,label\nimages/1.png,"cat\n', ":2: unexpected end of data"),
        (
            "path,label\nimages/1.png,cat\nimages/2.png,Küken\n".encode("latin1"),
            ": cannot read the table: 'utf-8' codec can't decode byte 0xfc",
        ),
        ("path,label,split\nimages/1.png,cat,val\n", ": no rows of the train split"),
    ],
)
def test_mistakes_name_the_line(table, text, message):
    root = table(text)
    with pytest.raises(UserError) as caught:
        CsvTable(root, "train")
    assert str(caught.value).startswith(f"{root}/labels.csv{message.format(root=root)}")


def test_columns_of_other_names_and_files_without_a_suffix(table):
    root = table("id,class,path,fold\nimages/1,cat,x,train\nimages/2,dog,y,test\n")
    words = ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root), "DATASETS.suffix", ".png", "DATASETS.columns"]
    cfg = load_config(None, [*words, "{path: id, label: class, split: fold}"])
    train = build_split(cfg, "train")
    assert train.classes == ["cat"] and train.path(0) == root / "images/1.png" and not train.missing
    with pytest.raises(UserError, match="labels.csv:3: class 'dog' is not in the training set"):
        build_split(cfg, "test")
    for columns, message in (
        ("{path: name}", "labels.csv:1: no column 'name', found id,class,path,fold; expected name,label, or set"),
        ("{path: id, label: class, weight: w}", "no column 'w', found id,class,path,fold; expected id,class, or"),
        ("{paht: id}", "DATASETS.columns paht: no such column; expected path,label,split,weight"),
    ):
        with pytest.raises(UserError, match=message):
            build_split(load_config(None, [*words, columns]), "train")


def test_an_image_may_have_no_label_where_others_have_several(table):
    root = table("path,label\nimages/1.png,cat|dog\nimages/2.png,\nimages/3.png, dog\n")
    assert CsvTable(root, "train").targets.tolist() == [[1, 1], [0, 0], [0, 1]]
    root = table("path,label\nimages/2.png,\nimages/3.png,dog\n")
    train = CsvTable(root, "train", multilabel=True)
    assert train.targets.tolist() == [[0], [1]] and guess_task(Subset(train, np.arange(2))) == "multilabel"
    with pytest.raises(UserError, match="labels.csv:2: the label is empty; name a class, or set DATASETS.multilabel"):
        CsvTable(root, "train")


def test_images_to_be_predicted_do_not_keep_others_from_training(table):
    root = table("path,label,split\nimages/1.png,cat,train\nimages/2.png,,test\n")
    assert CsvTable(root, "train").classes == ["cat"]
    with pytest.raises(UserError, match="labels.csv:3: the label is empty"):
        CsvTable(root, "test")


@pytest.mark.parametrize(
    ("rows", "multilabel", "expected", "said"),
    [
        (
            "1 red, 2 cold, 1 red, 1 red",
            False,
            "1 red, 2 cold, 1 red, 1 red",
            "lines 2, 4, 5; joined, as their labels differ: 0",
        ),
        ("1 red, 2 cold, ./1 red", False, "1 red, 2 cold, ./1 red", "lines 2, 4; joined, as their labels differ: 0"),
        ("1 red, 2 cold, 1 warm", False, None, "labels.csv:4: images/1.png is 'warm', in line 2 'red'; correct one"),
        ("1 red, 1 red, 1 ", False, None, "labels.csv:4: images/1.png is '', in line 2 'red'; correct one"),
        ("1 red, 2 cold, 1 warm", True, "1 red|warm, 2 cold", "lines 2, 4; joined, as their labels differ: 1"),
        (
            "1 red, 1 red, 2 cold, 1 warm|red",
            False,
            "1 red|warm, 2 cold",
            "lines 2, 3, 5; joined, as their labels differ: 1",
        ),
        (
            "1 red|warm, 1 warm|red, 2 cold",
            False,
            "1 red|warm, 1 warm|red, 2 cold",
            "lines 2, 3; joined, as their labels differ: 0",
        ),
        ("1 red, 2 cold", False, "1 red, 2 cold", None),
    ],
)
def test_an_image_in_several_rows(table, caplog, rows, multilabel, expected, said):
    logging.getLogger("strata").propagate = True

    def split(text: str) -> list[tuple[str, ...]]:
        return [tuple(row.split(" ")) for row in text.split(", ")]

    root = table("path,label\n" + "".join(f"{name.replace('1', 'images/1')}.png,{c}\n" for name, c in split(rows)))
    if expected is None:
        with pytest.raises(UserError) as caught:
            CsvTable(root, "train", multilabel=multilabel)
        assert str(caught.value).startswith(f"{root}/{said}")
        return
    train = CsvTable(root, "train", multilabel=multilabel)
    found = [
        (train.path(i).stem, set(label_text(train.targets[i], train.classes).split("|"))) for i in range(len(train))
    ]
    assert found == [(Path(name).stem, set(label.split("|"))) for name, label in split(expected)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (said is not None)
    assert said is None or f"labels.csv: images in several rows: 1, such as images/1.png in {said}" in messages[0]


def test_all_missing_files_are_named_at_once(table):
    root = table("path,label\n" + "".join(f"images/{i}.png,{'ab'[i % 2]}\n" for i in range(1, 10)) + ",a\n")
    words = ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root), "DATASETS.VAL_RATIO", "0", "INPUT.SIZE", "[6,7]"]
    words += ["DATASETS.MAX_SKIPPED", "0.5", "INPUT.TRAIN_TRANSFORMS", "[]"]
    found = f"5 files do not exist: {root}/labels.csv:7: {root}/images/6.png; {root}/labels.csv:8: "
    for split in ("train", "test"):
        cfg = load_config(None, words)
        dataset = build_train_and_val(cfg).train
        spec = InputSpec((6, 7), 3, (0.5,) * 3, (0.5,) * 3)
        with pytest.raises(UserError) as caught:
            (build_train_loader if split == "train" else build_eval_loader)(cfg, dataset, spec)
        assert str(caught.value).startswith(found) and str(caught.value).count("images/") == 3
    cfg = load_config(None, [*words, "DATASETS.ON_ERROR", "skip"])
    loader = build_eval_loader(cfg, dataset, spec)
    assert sum(len(batch) for batch in loader.batches()) == 5 and set(loader.broken) == {5, 6, 7, 8, 9}


@pytest.mark.parametrize("several", ["val", "test"])
def test_several_labels_in_one_split_are_several_labels_in_all(table, several):
    splits = {"train": "cat dog", "val": "cat", "test": "dog", several: "cat|dog"}
    root = table(
        "path,label,split\nimages/1.png,cat,train\nimages/2.png,dog,train\n"
        + "".join(f"images/{i}.png,{splits[split]},{split}\n" for i, split in ((3, "val"), (4, "test")))
    )
    splits = build_train_and_val(load_config(None, ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root)]))
    train, val = splits.train, splits.val
    assert guess_task(train) == "multilabel" and val.targets.shape == (1, 2)
    with pytest.raises(UserError, match="the images have several labels each; set TASK.NAME to multilabel"):
        Classification.check(train, val)


def test_a_class_that_was_not_trained_on(table):
    root = table("path,label,split\nimages/1.png,cat,train\nimages/2.png,cats,test\n")
    assert CsvTable(root, "train").classes == ["cat"]
    with pytest.raises(UserError, match="labels.csv:3: class 'cats' is not in the training set; did you mean 'cat'"):
        CsvTable(root, "test", ["cat"])


def test_no_table(tmp_path):
    with pytest.raises(UserError, match="labels.csv: cannot read the table: .*No such file.*; expected CSV in"):
        CsvTable(tmp_path, "train")


def test_numbers_for_regression(table):
    root = table(
        "path,age,height,split,weight\nimages/1.png,30,1.75,train,1\nimages/2.png,-0.5,1e2,train,2\n"
        "images/3.png, 7 ,0,val,1\n"
    )
    words = ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root), "DATASETS.targets", "[age, height]"]
    splits = build_train_and_val(load_config(None, words))
    train, val = splits.train, splits.val
    assert train.targets.dtype == np.float32 and train.targets.tolist() == [[30, 1.75], [-0.5, 100]]
    assert train.target_names == ["age", "height"] and output_names(train) == ["age", "height"]
    assert not hasattr(train, "classes") and train.weights.tolist() == [1, 2]
    assert val.targets.tolist() == [[7, 0]] and val[0][1].tolist() == [7, 0]
    one = build_split(load_config(None, [*words[:-1], "age"]), "train", ["age"])
    assert one.targets.tolist() == [[30], [-0.5]] and one.target_names == ["age"]
    with pytest.raises(UserError, match=r"its train split has 1 classes \(age\), expected 2 \(age, height\)"):
        build_split(load_config(None, [*words[:-1], "age"]), "train", ["age", "height"])


def test_numbers_can_be_divided(table):
    root = table("path,age\n" + "".join(f"images/{i}.png,{i}\n" for i in range(1, 6)))
    words = ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root), "DATASETS.targets", "age", "DATASETS.VAL_RATIO", "0.4"]
    splits = build_train_and_val(load_config(None, words))
    train, val = splits.train, splits.val
    assert (len(train), len(val)) == (3, 2) and train.target_names == val.target_names == ["age"]
    assert sorted([*train.targets[:, 0], *val.targets[:, 0]]) == [1, 2, 3, 4, 5] and not hasattr(train, "classes")


@pytest.mark.parametrize("cell", ["", "old", "nan", "inf", "1e39", "1,5"])
def test_numbers_that_are_none_name_the_line(table, cell):
    root = table(f'path,age\nimages/1.png,3\nimages/2.png,"{cell}"\n')
    with pytest.raises(UserError) as caught:
        CsvTable(root, "train", targets=["age"])
    assert str(caught.value).startswith(f"{root}/labels.csv:3: age '{cell}', expected a finite number")
    with pytest.raises(UserError, match="labels.csv:1: no column 'size', found path,age; expected path,age,size"):
        CsvTable(root, "train", targets=["age", "size"])


def test_groups_are_a_column(table, tmp_path):
    """Two images of each patient, in classes that alternate: a hold-out or a fold has both or none."""
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes((tmp_path / "images/1.png").read_bytes())
    lines = [f"{i}.png,{'cat' if i % 2 else 'dog'},p{i // 2}" for i in range(10)]
    root = table("\n".join(["path,label,patient", *lines]))
    words = ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(root), "DATASETS.GROUP", "patient"]
    assert CsvTable(root, "train", group="patient").groups == [f"p{i // 2}" for i in range(10)]
    blank = table("path,label,patient\n0.png,cat,\n1.png,dog, \n2.png,dog,p1\n", "blank.csv")
    assert CsvTable(blank, "train", file="blank.csv", group="patient").groups == ["0.png", "1.png", "p1"]
    assert CsvTable(root, "train").groups is None
    for seed in range(5):
        cfg = load_config(None, [*words, "DATASETS.VAL_RATIO", "0.4", "DATASETS.SPLIT_SEED", str(seed)])
        splits = build_train_and_val(cfg)
        sides = [{part.indices[i] // 2 for i in range(len(part))} for part in (splits.train, splits.val)]
        assert not sides[0] & sides[1] and len(splits.val) % 2 == 0
    with pytest.raises(UserError, match=r"labels.csv:1: no column 'doctor', found path,label,patient; correct"):
        build_split(load_config(None, [*words, "DATASETS.GROUP", "doctor"]), "train")


def test_a_class_that_was_added_is_ignored_by_the_run(table, caplog):
    root = table("path,label\nimages/1.png,cat\nimages/2.png,dog\nimages/3.png,eel\n")
    with caplog.at_level(logging.WARNING):
        train = CsvTable(root, "train", ["cat", "dog"])
    assert train.targets.tolist() == [0, 1] and "ignored 1 images of classes that the network does not" in caplog.text
    several = table("path,label\nimages/1.png,cat|eel\nimages/2.png,dog|cat\n")
    assert CsvTable(several, "train", ["cat", "dog"]).targets.tolist() == [[1, 1]]
    root = table("path,label,split\nimages/1.png,cat,train\nimages/2.png,dog,train\nimages/3.png,eel,test\n")
    with pytest.raises(UserError, match="class 'eel' is not in the training set"):
        CsvTable(root, "test", ["cat", "dog"])
