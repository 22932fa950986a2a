"""Tables of images and labels, as people and their spreadsheets write them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from config import load_config
from data.build import build_split, build_train_and_val
from data.datasets.csv_table import CsvTable
from data.registry import MissingSplit
from utils.contracts import output_names
from utils.errors import UserError


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
    root = table("path,label\n" + "".join(f"images/{i}.png,{label}\n" for label in ("a|b", "b") for i in range(1, 6)))
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
        ("path,label\nimages/1.png\n", ":2: found 1 cells, expected path,label; quote a cell"),
        ("path,label\nimages/1.png,cat||dog\n", ":2: the label is empty"),
        ("path,label\nimages/1.png,cat, black\n", ":2: found 3 cells, expected path,label; quote a cell"),
        ("path,label,split\nimages/1.png,cat,trian\n", ":2: split 'trian', expected train, val or test"),
        ("path,label,split\nimages/1.png,cat,\n", ":2: split '', expected"),
        ("path,label,weight\nimages/1.png,cat,heavy\n", ":2: could not convert string to float: 'heavy'"),
        ("path,label,weight\nimages/1.png,cat,-1\n", ":2: weight -1.0, expected a number from 0 up"),
        ("path,label,weight\nimages/1.png,cat,nan\n", ":2: weight nan, expected"),
        ("path,label,weight\nimages/1.png,cat,inf\n", ":2: weight inf, expected"),
        ("path,label,weight\nimages/1.png,cat,\n", ":2: could not convert string to float: ''"),
        ("path,label\nimages/1.png,cat\n\n\nimages/9.png,cat\n", ":5: no such file: {root}/images/9.png"),
        ("path,label\n,cat\n", ":2: no such file"),
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
