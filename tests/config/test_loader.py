"""The configuration: what is merged, what is refused, and in which words."""

import copy
import pickle
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import grammar, load_config, load_text
from config.changes import check_test_overrides, compare
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
        ("INPUT.SIZE", "[32, 48]", [32, 48]),
        ("INPUT.SIZE", "null", None),
        (
            "INPUT.TRAIN_TRANSFORMS",
            "[{RandomResizedCrop: {scale: [0.35, 1]}}, HFlip]",
            [{"RandomResizedCrop": {"scale": [0.35, 1]}}, "HFlip"],
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
    "SOLVER:\n  BASE_LR: .inf\n": "x.yml:2: SOLVER.BASE_LR: found inf, expected a finite number of at least 0",
    "SOLVER:\n  AMP: yes\n": "x.yml:2: SOLVER.AMP: found 'yes', expected one of off, bf16, fp16, auto",
    "SEED: 1\nSEED: 2\n": "x.yml:2: SEED is set twice, first in line 1",
    "SOLVER: 3\n": "x.yml:1: SOLVER is a section",
    "SOLVER:\n\tBASE_LR: 1\n": "x.yml:2: not valid YAML",
    "SOLVER: [1\n": "not valid YAML",
    "- 1\n- 2\n": "x.yml:1: found a sequence, expected KEY: value lines",
    "SEED: !!python/object/apply:os.system [echo bad]\n": "x.yml:1: not valid YAML: could not determine a constructor",
    "INPUT: {SIZE: [32]}\n": "INPUT.SIZE: found [32], expected [height, width] up to 16384 pixels",
    "INPUT: {CHANNELS: 1, MEAN: [0.1, 0.2, 0.3]}\n": "x.yml:1: INPUT.MEAN: found 3 numbers, expected one for each of",
    "INPUT: {CHANNELS: -1}\n": "x.yml:1: INPUT.CHANNELS: found -1, expected at least 0",
    "INPUT: {STD: []}\n": "INPUT.STD: found [], expected one number above 0 for each channel",
    "INPUT: {STD: [1, 0]}\n": "INPUT.STD: found [1, 0], expected one number above 0",
    "INPUT: {MEAN: [.nan]}\n": "INPUT.MEAN: found [nan], expected one number for each channel",
    "DATASETS: {FOLD: [3, 2]}\n": "DATASETS.FOLD: found [3, 2], expected [k, n]",
    "EXPERIMENT: {NAME: a/b}\n": "EXPERIMENT.NAME: found 'a/b', expected a name without /",
    "SOLVER:\n  CLIP: {NORM: .inf}\n": "NORM: found inf, expected a finite number of at least 0; 0 disables clipping",
    "SOLVER: {WEIGHT_DECAY: -1}\n": "SOLVER.WEIGHT_DECAY: found -1.0, expected a finite number of at least 0",
    "SOLVER: {FREEZE_EPOCHS: -1}\n": "SOLVER.FREEZE_EPOCHS: found -1, expected at least 0",
    "SOLVER: {OPTIMIZER: {NAME: SGD, lr: 1}}\n": "SOLVER.OPTIMIZER.lr: has a key of its own",
    "SOLVER: {MAX_EPOCHS: 3, SCHEDULER: {WARMUP_EPOCHS: 3}}\n": "WARMUP_EPOCHS: found 3.0, expected less than",
    "TEST: {MONITOR: top1}\n": "TEST.MONITOR: found 'top1', expected 'max NAME' or 'min NAME'",
    "TEST: {METRICS: top1}\n": "x.yml:1: TEST.METRICS: found 'top1', expected a list [a, b] or null",
    "TEST: {METRICS: [1]}\n": "x.yml:1: TEST.METRICS: found [1], expected a list of names",
    "TEST: {MONITOR: max top1}\nDATASETS: {VAL_RATIO: 0}\n": "x.yml:1: TEST.MONITOR: needs a validation set",
    "MODEL: {PRETRAINED: true, WEIGHTS: x}\n": "x.yml:1: MODEL.WEIGHTS: conflicts with MODEL.PRETRAINED true",
    "_BASE_: x.yml\n": "_BASE_ leads back to this file",
    "_BASE_: 3\n": "x.yml:1: _BASE_: found 3, expected a path or a list of paths",
    "_BASE_: gone.yml\n": "cannot read the configuration: No such file",
    "HOOKS: &a [*a]\n": "x.yml:1: not valid YAML: found unconstructable recursive node",
    "1: 2\n": "unknown key 1",
    "<<: 5\n": "not valid YAML",
    "EXPERIMENT: {name: x}\n": "x.yml:1: unknown key EXPERIMENT.name; did you mean 'EXPERIMENT.NAME'",
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
    with pytest.raises(UserError, match="not UTF-8"):
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
    assert load_config(file, words).SOLVER.OPTIMIZER.arguments() == {"betas": [0.8, 0.9]}
    assert load_config(file, ["SOLVER.OPTIMIZER.nesterov", "true"]).SOLVER.OPTIMIZER.arguments() == {
        "momentum": 0.5,
        "nesterov": True,
    }


def test_frozen_means_frozen():
    cfg = load_config(None, ["SOLVER.OPTIMIZER.betas", "[0.8, 0.9]"])
    for same in (cfg, copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert same == cfg
        for node in (same, same.SOLVER, same.SOLVER.OPTIMIZER):
            with pytest.raises(AttributeError, match="immutable"):
                node.NAME = "x"
    cfg.SOLVER.OPTIMIZER.arguments()["betas"].clear()
    other = cfg.clone()
    other.SEED, other.SOLVER.EMA = 3, 0.5
    other.SOLVER.OPTIMIZER.betas.clear()
    assert (cfg.SEED, cfg.SOLVER.EMA, cfg.SOLVER.OPTIMIZER.betas) == (0, 0.0, [0.8, 0.9])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_what_is_dumped_is_what_is_read(value):
    (setting,) = grammar.parse(f"key: {grammar.flow(value)}", "x", {})
    assert setting.value == value
    if not isinstance(value, str) or value:
        assert grammar.parse_value(grammar.flow(value))[0] == value


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(["width", "depth", "p"]), values, max_size=3), st.text(max_size=8))
def test_dump_is_a_fixed_point(arguments, name):
    if "/" in name or name in (".", "..") or not name.isprintable():
        name = "x"
    cfg = load_text(grammar.flow({"MODEL": {"NAME": "other", **arguments}, "EXPERIMENT": {"NAME": name}}), "x")
    again = load_text(cfg.dump(), "x")
    assert again == cfg and again.dump() == cfg.dump()
    assert load_text(dump_overrides(cfg), "x").dump() == cfg.dump()


def test_overrides_keep_an_optimizer_without_the_default_arguments():
    cfg = load_config(None, ["SOLVER.SCHEDULER.NAME", "constant"])
    assert load_text(dump_overrides(cfg), "x").SOLVER.SCHEDULER == {"NAME": "constant", "WARMUP_EPOCHS": 0.0}


def test_a_monitor_needs_a_validation_set_of_some_kind():
    words = ["TEST.MONITOR", "min loss", "DATASETS.VAL_RATIO", "0"]
    with pytest.raises(UserError, match="command line: TEST.MONITOR: needs a validation set"):
        load_config(None, words)
    assert load_config(None, [*words, "DATASETS.FOLD", "[1, 5]"]).TEST.MONITOR == "min loss"
    assert load_config(None, words[2:]).TEST.MONITOR == ""


def test_print_marks_what_differs():
    text = dump_marked(load_config(None, ["SOLVER.BASE_LR", "0.3", "SOLVER.OPTIMIZER.NAME", "SGD"]))
    marked = [line.strip() for line in text.splitlines() if "#" in line]
    assert marked == ["NAME: default  # default: ''", "BASE_LR: 0.3  # default: 0.0", "NAME: SGD  # default: AdamW"]
    assert "  OPTIMIZER:\n    NAME: SGD\n" in dump_overrides(load_text(text, "x"))


def test_overrides_are_found_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, pairs = split_overrides(["--allow-change", "SEED", "SEED", "1"], ["--allow-change"])
    assert (words, pairs) == (["--allow-change", "SEED"], ["SEED", "1"])
    words, pairs = split_overrides(["--resume", "SOLVER.BASE_LR", "-1", "--config-file", "x.yml", "SEED", "3", "out"])
    assert (words, pairs) == (["--resume", "--config-file", "x.yml", "out"], ["SOLVER.BASE_LR", "-1", "SEED", "3"])
    assert split_overrides(["LOSS.label_smoothing", "0.1"]) == ([], ["LOSS.label_smoothing", "0.1"])
    (tmp_path / "RUN").mkdir()
    assert split_overrides(["RUN", "weights.pth"]) == (["RUN", "weights.pth"], [])
    for words in (["INPUT.SIZE", "[64,", "64]"], ["INPUT.TRAIN_TRANSFORMS", "[{RandomCrop:", "{padding:", "1}}]"]):
        with pytest.raises(
            UserError, match=f'{re.escape(words[1])}: the list does not end; quote it: {words[0]} "\\[a,'
        ):
            split_overrides(words)
    with pytest.raises(UserError, match="SEED needs a value"):
        split_overrides(["SEED"])
    with pytest.raises(UserError, match="expected a space: SEED 3"):
        split_overrides(["SEED=3"])


def test_keys_that_are_gone_are_ignored_in_files_of_earlier_runs(write):
    text = "LOG: {FORMAT: '%(message)s', PERIOD: 7}\n"
    for cfg in (load_config(write(text)), load_text(text, "last.pth")):
        assert cfg.LOG.PERIOD == 7 and "FORMAT" not in cfg.LOG
    with pytest.raises(UserError, match="command line: unknown key LOG.FORMAT"):
        load_config(None, ["LOG.FORMAT", "%(message)s"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("LOG.PERIOD 1", "LOG.PERIOD: 50 -> 1 (execution setting; does not affect results)"),
        ("DATASETS.ROOT x", "DATASETS.ROOT: datasets -> x (execution setting; does not affect results)"),
        ("MODEL.WEIGHTS_MIN_MATCH 1", "MODEL.WEIGHTS_MIN_MATCH: 0.5 -> 1.0 (ignored when resuming)"),
        ("MODEL.WEIGHTS x.pth", "MODEL.WEIGHTS: '' -> x.pth (ignored when resuming)"),
        ("SOLVER.BASE_LR 1", "SOLVER.BASE_LR: 0.0 -> 1.0 (applied from here on)"),
        ("SOLVER.CLIP.NORM 1", "SOLVER.CLIP.NORM: 0.0 -> 1.0 (applied from here on)"),
        ("SOLVER.SCHEDULER.pct_start 0.1", "SOLVER.SCHEDULER.pct_start: unset -> 0.1 (applied from here on)"),
        ("HOOKS [x]", "HOOKS: [] -> [x] (applied from here on)"),
        ("TEST.METRICS [top1]", "TEST.METRICS: null -> [top1] (applied from here on)"),
    ],
)
def test_a_change_that_a_resumed_run_allows_is_a_line(words, line):
    key = line.partition(":")[0]
    assert compare(load_config(), load_config(None, words.split())) == {key: line}
    assert compare(load_config(), load_config()) == {}


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("SOLVER.BATCH_SIZE 1", "SOLVER.BATCH_SIZE"),
        ("SOLVER.BATCH_SIZE 1", "SOLVER"),
        ("SOLVER.AMP bf16", "SOLVER.AMP"),
        ("SOLVER.STEP.NAME sam", "SOLVER.STEP"),
        ("SOLVER.STEP.rho 0.1", "SOLVER.STEP"),
        ("TASK.NAME regression", "TASK"),
        ("LOSS.NAME bce", "LOSS"),
        ("LOSS.label_smoothing 0.1", "LOSS.label_smoothing"),
        ("LOSS.weight null", "LOSS"),
        ("DATASETS.VAL_RATIO 0.3", "DATASETS.VAL_RATIO"),
        ("INPUT.TEST_TRANSFORMS []", "INPUT.TEST_TRANSFORMS"),
        ("TEST.MONITOR 'min loss'", "TEST.MONITOR"),
    ],
)
def test_other_changes_are_refused_unless_they_are_allowed(words, allowed):
    saved, new = load_config(), load_config(None, shlex.split(words))
    key, value = shlex.split(words)
    with pytest.raises(
        UserError, match=f"^{key}: .* -> {re.escape(value)}: cannot be changed when resuming; "
    ) as caught:
        compare(saved, new)
    assert str(caught.value).endswith(f"--allow-change {key.removesuffix('.NAME')}")
    with pytest.raises(UserError):
        compare(saved, new, ["SEED"])
    assert compare(saved, new, [allowed])[key].endswith("(applied from here on)")
    with pytest.raises(UserError, match="--allow-change: unknown key SOLVER.BATCH; did you mean 'SOLVER.BATCH_SIZE'"):
        compare(saved, new, ["SOLVER.BATCH"])


def test_what_a_test_may_override():
    saved = load_config()
    free = "DATASETS.NAME toy DATASETS.ROOT x TEST.TTA_FLIP true INPUT.SIZE [8,8] MODEL.DEVICE cpu LOG.PERIOD 3"
    check_test_overrides(saved, load_config(None, free.split()))
    check_test_overrides(saved, load_config(None, ["TEST.METRICS", "[top1]", "DATASETS.size", "3"]))
    for words in ("SOLVER.BATCH_SIZE 3", "DATASETS.FOLD [1,3]", "INPUT.MEAN [0.5]", "TASK.NAME x", "HOOKS [x]"):
        key = words.split()[0]
        with pytest.raises(UserError, match=f"^{key}: cannot be overridden at test time"):
            check_test_overrides(saved, load_config(None, words.split()))


def test_every_default_has_a_line_of_explanation():
    import config.defaults

    lines = Path(config.defaults.__file__).read_text().splitlines()
    keys = [n for n, line in enumerate(lines) if line.startswith("    c.") and not line.endswith("CfgNode()")]
    assert len(keys) == len([key for key in leaves(default_config()) if key.rpartition(".")[2].isupper()])
    for number in keys:
        assert lines[number - 1].strip().startswith("# "), lines[number]
