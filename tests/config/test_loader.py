"""The configuration: what is merged, what is refused, and in which words."""

import copy
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import grammar, load_config, load_text, merge_dict
from config.changes import compare
from config.defaults import default_config
from config.loader import dump_marked, dump_overrides, split_overrides
from config.node import leaves
from utils.errors import UserError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes, name: str = "x.yml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_five_lines_are_an_experiment(write):
    cfg = load_config(write("MODEL:\n  NAME: resnet18\nSOLVER:\n  BASE_LR: 1\n  MAX_EPOCHS: 2\n"))
    assert (cfg.MODEL.NAME, cfg.SOLVER.MAX_EPOCHS, cfg.EXPERIMENT.NAME) == ("resnet18", 2, "x")
    assert cfg.SOLVER.BASE_LR == 1.0 and type(cfg.SOLVER.BASE_LR) is float


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "1e-3", 0.001),
        ("SOLVER.BASE_LR", ".5", 0.5),
        ("SOLVER.MAX_EPOCHS", "1e2", 100),
        ("SOLVER.AMP", "off", "off"),
        ("SOLVER.AMP", "'off'", "off"),
        ("EXPERIMENT.NAME", '"a b"', "a b"),
        ("EXPERIMENT.NAME", "010", "010"),
        ("EXPERIMENT.NAME", "1e-3", "1e-3"),
        ("LOSS.label_smoothing", "010", "010"),
        ("LOSS.label_smoothing", "0", 0),
        ("LOSS.label_smoothing", "-1_000.5e1", -10005.0),
        ("LOG.DAILY", "yes", True),
        ("INPUT.SIZE", "[32, 48]", (32, 48)),
        ("INPUT.SIZE", "null", None),
        (
            "INPUT.TRAIN_TRANSFORMS",
            "[{RandomResizedCrop: {scale: [0.35, 1]}}, HFlip]",
            ({"RandomResizedCrop": {"scale": (0.35, 1)}}, "HFlip"),
        ),
        ("SOLVER.OPTIMIZER.momentum", "0.8", 0.8),
    ],
)
def test_values_mean_the_same_in_a_file_and_on_the_command_line(write, key, text, value):
    *sections, leaf = key.split(".")
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(sections)]
    lines.append(f"{'  ' * len(sections)}{leaf}: {text}")
    from_file = load_config(write("\n".join(lines)))
    from_words = load_config(None, [key, text])
    assert leaves_raw(from_file, key) == leaves_raw(from_words, key) == value


def leaves_raw(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


MISTAKES = {
    "SOLVER:\n  BASE_LF: 0.1\n": "x.yml:2: unknown key SOLVER.BASE_LF; did you mean 'SOLVER.BASE_LR'?",
    "SOLVER:\n  MAX_EPOCHS: many\n": "x.yml:2: SOLVER.MAX_EPOCHS: found 'many', expected an integer",
    "SOLVER:\n  MAX_EPOCHS: 1.5\n": "x.yml:2: SOLVER.MAX_EPOCHS: found 1.5, expected an integer",
    "SOLVER:\n  MAX_EPOCHS: 0\n": "x.yml:2: SOLVER.MAX_EPOCHS: found 0, expected at least 1",
    "SOLVER:\n  BASE_LR: .inf\n": "x.yml:2: SOLVER.BASE_LR: found inf, expected a number above 0",
    "SOLVER:\n  AMP: yes\n": "x.yml:2: SOLVER.AMP: found 'yes', expected one of off, bf16, fp16, auto",
    "SEED: 1\nSEED: 2\n": "x.yml:2: SEED is set twice, first in line 1",
    "SOLVER: 3\n": "x.yml:1: SOLVER is a section",
    "SOLVER:\n\tBASE_LR: 1\n": "x.yml:2: not valid YAML",
    "SOLVER: [1\n": "not valid YAML",
    "- 1\n- 2\n": "x.yml:1: found a sequence, expected KEY: value lines",
    "SEED: !!python/object/apply:os.system [echo bad]\n": "x.yml:1: not valid YAML: could not determine a constructor",
    "INPUT: {SIZE: [32]}\n": "INPUT.SIZE: found [32], expected [height, width] in pixels",
    "INPUT: {CHANNELS: 1, MEAN: [0.1, 0.2, 0.3]}\n": "INPUT.MEAN: has 3 numbers for INPUT.CHANNELS 1",
    "SOLVER: {OPTIMIZER: {NAME: SGD, lr: 1}}\n": "SOLVER.OPTIMIZER.lr: has a key of its own",
    "SOLVER: {MAX_EPOCHS: 3, SCHEDULER: {WARMUP_EPOCHS: 3}}\n": "WARMUP_EPOCHS: 3.0 leaves nothing",
    "TEST: {MONITOR: top1}\n": "TEST.MONITOR: found 'top1', expected 'max' or 'min' and a metric",
    "TEST: {MONITOR: max top7}\n": "TEST.MONITOR: 'top7' is not in TEST.METRICS",
    "_BASE_: x.yml\n": "_BASE_ comes back to this file",
    "_BASE_: 3\n": "x.yml:1: _BASE_: found 3, expected a path or a list of paths",
    "_BASE_: gone.yml\n": "cannot read the configuration: No such file",
    "HOOKS: &a [*a]\n": "x.yml:1: not valid YAML: found unconstructable recursive node",
    "1: 2\n": "unknown key 1",
    "<<: 5\n": "not valid YAML",
    "EXPERIMENT: {name: x}\n": "x.yml:1: unknown key EXPERIMENT.name; did you mean 'EXPERIMENT.NAME'",
    "LOG: {FORMAT: '%(nothing)s'}\n": "LOG.FORMAT: found '%(nothing)s', expected a format of Python's logging",
    "[" * 3000: "nested too deeply",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:24])
def test_a_mistake_is_one_line_with_the_fix(write, text):
    with pytest.raises(UserError) as caught:
        load_config(write(text))
    assert MISTAKES[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_other_kinds_are_refused(write, tmp_path):
    marker = tmp_path / "ran"
    with pytest.raises(UserError, match=r"found a '.py' file"):
        load_config(write(f"open({str(marker)!r}, 'w')", "x.py"))
    assert not marker.exists()
    with pytest.raises(UserError, match="not a text in UTF-8"):
        load_config(write(b"SEED: \xff\xfe"))
    assert load_config(write(b"\xef\xbb\xbfSEED: 7\n")).SEED == 7
    assert load_config(write("")).SEED == 0


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin1")))
def test_any_text_loads_or_is_a_user_error(text):
    try:
        load_text(text, "fuzz")
    except UserError as error:
        assert "\n" not in str(error)


def test_bases_are_merged_in_order(write, tmp_path):
    write("SEED: 1\nSOLVER: {BASE_LR: 0.5, MAX_EPOCHS: 7}\n", "a.yml")
    (tmp_path / "sub").mkdir()
    write("_BASE_: ../a.yml\nSEED: 2\n", "sub/b.yml")
    cfg = load_config(write("_BASE_: [a.yml, sub/b.yml]\nSOLVER: {MAX_EPOCHS: 9}\n"))
    assert (cfg.SEED, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCHS) == (2, 0.5, 9)


def test_who_sets_a_name_replaces_the_arguments(write):
    file = write("SOLVER:\n  OPTIMIZER: {NAME: SGD, momentum: 0.5}\n")
    assert load_config(file).SOLVER.OPTIMIZER.arguments() == {"momentum": 0.5}
    assert load_config(file, ["SOLVER.OPTIMIZER.NAME", "AdamW"]).SOLVER.OPTIMIZER.arguments() == {}
    words = ["SOLVER.OPTIMIZER.betas", "[0.8, 0.9]", "SOLVER.OPTIMIZER.NAME", "AdamW"]
    assert load_config(file, words).SOLVER.OPTIMIZER.arguments() == {"betas": (0.8, 0.9)}
    assert load_config(file, ["SOLVER.OPTIMIZER.nesterov", "true"]).SOLVER.OPTIMIZER.arguments() == {
        "momentum": 0.5,
        "nesterov": True,
    }


def test_frozen_means_frozen():
    cfg = load_config(None, ["INPUT.TRAIN_TRANSFORMS", "[{HFlip: {p: 0.1}}]"])
    for change in (
        lambda: setattr(cfg, "SEED", 1),
        lambda: cfg.__setitem__("SEED", 1),
        lambda: cfg.SOLVER.update(BASE_LR=1),
        lambda: cfg.SOLVER.pop("BASE_LR"),
        lambda: cfg.INPUT.TRAIN_TRANSFORMS[0]["HFlip"].update(p=1),
    ):
        with pytest.raises(AttributeError):
            change()
    assert isinstance(cfg.INPUT.TRAIN_TRANSFORMS, tuple)
    for other in (cfg.clone(), copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        other.SEED = 3
        assert (other.SEED, cfg.SEED) == (3, 0)


def test_merge_dict_is_checked_like_a_file():
    cfg = load_config()
    assert merge_dict(cfg, {"SOLVER": {"BASE_LR": 1}}).SOLVER.BASE_LR == 1.0
    with pytest.raises(UserError, match="unknown key SOLVER.BASE_L;"):
        merge_dict(cfg, {"SOLVER": {"BASE_L": 1}})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_what_is_dumped_is_what_is_read(value):
    node, loader = grammar.compose(grammar.flow(value), "x")
    assert grammar.value_of(node, loader, "x") == value


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(["width", "depth", "p"]), values, max_size=3), st.text(max_size=8))
def test_dump_is_a_fixed_point(arguments, name):
    if "/" in name or name in (".", "..") or not name.isprintable():
        name = "x"
    cfg = merge_dict(load_config(), {"MODEL": {"NAME": "other", **arguments}, "EXPERIMENT": {"NAME": name}})
    again = load_text(cfg.dump(), "x")
    assert again == cfg and again.dump() == cfg.dump()
    assert load_text(dump_overrides(cfg), "x").dump() == cfg.dump()


def test_print_marks_what_differs():
    text = dump_marked(load_config(None, ["SOLVER.BASE_LR", "0.3", "SOLVER.OPTIMIZER.NAME", "AdamW"]))
    marked = [line.strip() for line in text.splitlines() if "#" in line]
    assert marked == ["NAME: default  # default: ''", "BASE_LR: 0.3  # default: 0.1", "NAME: AdamW  # default: SGD"]
    assert "  OPTIMIZER:\n    NAME: AdamW\n" in dump_overrides(load_text(text, "x"))


def test_overrides_are_found_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, pairs = split_overrides(["--allow-change", "SEED", "SEED", "1"], ["--allow-change"])
    assert (words, pairs) == (["--allow-change", "SEED"], ["SEED", "1"])
    words, pairs = split_overrides(["--resume", "SOLVER.BASE_LR", "-1", "--config-file", "x.yml", "SEED", "3", "out"])
    assert (words, pairs) == (["--resume", "--config-file", "x.yml", "out"], ["SOLVER.BASE_LR", "-1", "SEED", "3"])
    assert split_overrides(["LOSS.label_smoothing", "0.1"]) == ([], ["LOSS.label_smoothing", "0.1"])
    (tmp_path / "RUN").mkdir()
    assert split_overrides(["RUN", "weights.pth"]) == (["RUN", "weights.pth"], [])
    with pytest.raises(UserError, match="SEED needs a value"):
        split_overrides(["SEED"])
    with pytest.raises(UserError, match="expected a space: SEED 3"):
        split_overrides(["SEED=3"])


def test_changes_are_free_applied_or_refused():
    old = load_config()
    new = load_config(None, ["LOG.PERIOD", "1", "SOLVER.BASE_LR", "1", "DATALOADER.NUM_WORKERS", "1"])
    assert list(compare(old, new).values()) == [
        "DATALOADER.NUM_WORKERS: 0 -> 1 (how it runs, not what)",
        "LOG.PERIOD: 20 -> 1 (how it runs, not what)",
        "SOLVER.BASE_LR: 0.1 -> 1.0 (applied from here on)",
    ]
    other = load_config(None, ["SOLVER.BATCH_SIZE", "1"])
    with pytest.raises(UserError, match="--allow-change SOLVER.BATCH_SIZE"):
        compare(old, other)
    assert len(compare(old, other, ["SOLVER.BATCH_SIZE"])) == 1


def test_every_default_has_a_line_of_explanation():
    import config.defaults

    lines = Path(config.defaults.__file__).read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if " = " in line and "CfgNode(" not in line and "c." in line]
    assert len(keys) == len([key for key in leaves(default_config()) if key.rpartition(".")[2].isupper()])
    for number in keys:
        assert lines[number - 1].strip().startswith("# "), lines[number]
