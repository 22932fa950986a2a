"""Pictures of a training and of its results, by matplotlib without a display.

Each function gives the bytes of a picture, a PNG unless `file_format` says otherwise, which
can be read at the width of a phone.
"""

import functools
import io
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure  # not pyplot, which looks for a display

_WIDTH, _HEIGHT, _DPI = 5.2, 3.4, 160
_BARS = 40  # more classes than these are not labelled
_CELLS = 20  # nor more cells of a matrix
CURVES = 10  # nor are more curves drawn
_GRAY = "0.55"
# Fonts with Chinese, Japanese and Korean letters, on the systems that have them.
_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei")


def _picture(draw: Callable[..., Figure]) -> Callable[..., bytes]:
    """Decorator: a function that draws a figure -> one that gives its bytes; class names may be in any language."""

    @functools.wraps(draw)
    def drawn(*args, file_format: str = "png", **kwargs) -> bytes:
        installed = {font.name for font in font_manager.fontManager.ttflist}
        style = {
            "font.family": ["DejaVu Sans", *(font for font in _FONTS if font in installed)],
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
        buffer = io.BytesIO()
        with rc_context(style), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box where no font has it
            draw(*args, **kwargs).savefig(buffer, format=file_format, dpi=_DPI)
        return buffer.getvalue()

    return drawn


@_picture
def learning_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], chosen: float | None) -> Figure:
    """Panel title -> {name of a curve: (epochs, values)}; the epoch that was `chosen` is marked."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT * (0.3 + 0.7 * len(curves))))
    for axes, (title, named) in zip(
        np.atleast_1d(figure.subplots(len(curves), sharex=True)), curves.items(), strict=True
    ):
        for name, (epochs, values) in named.items():
            axes.plot(epochs, values, label=name, marker="o" if len(values) < 20 else None, markersize=3)
        if chosen is not None:
            axes.axvline(chosen, color=_GRAY, linestyle=":", label=f"chosen: epoch {chosen:g}")
        shown = [value for _, values in named.values() for value in values]
        if title == "loss" and min(shown) > 0 and max(shown) > 20 * min(shown):
            axes.set_yscale("log")
        axes.set(title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    axes.set(xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


@_picture
def learning_rate(epochs: Sequence[float], rates: Sequence[float], title: str) -> Figure:
    figure, axes = _axes()
    axes.plot(epochs, rates)
    axes.set(title=_plain(title), xlabel="epoch", ylabel="learning rate")
    axes.grid(alpha=0.3)
    return figure


@_picture
def confusion_matrix(counts: np.ndarray, classes: Sequence[str], normalised: bool) -> Figure:
    """Images of each class (row) that were taken for each class (column): (classes, classes)."""
    figure, axes = _axes(height=_WIDTH)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    shown = shares if normalised else counts
    norm = PowerNorm(1 if len(classes) <= _CELLS else 0.5, vmin=0, vmax=1 if normalised else None)  # few stay visible
    image = axes.imshow(shown, cmap="Blues", norm=norm, interpolation="nearest")
    axes.set(title="share of the class" if normalised else "images", xlabel="predicted", ylabel="target")
    axes.spines[:].set_visible(False)
    if len(classes) <= _BARS:
        axes.set_xticks(range(len(classes)), [_short(name) for name in classes], rotation=90)
        axes.set_yticks(range(len(classes)), [_short(name) for name in classes])
        axes.tick_params(length=0, labelsize=9 if len(classes) <= _CELLS else 6)
    if len(classes) <= _CELLS:
        high = shown.max(initial=0) / 2
        size = min(9, 90 / len(classes))
        for row, column in np.argwhere(counts):
            text = f"{shares[row, column]:.2f}".lstrip("0") if normalised else f"{counts[row, column]:g}"
            color = "white" if shown[row, column] > high else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    else:
        figure.colorbar(image, shrink=0.7)
    return figure


@_picture
def reliability_diagram(confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, error: float) -> Figure:
    """Accuracy of the images whose probability fell into each bin, nan for an empty one, and how many they are."""
    figure = Figure(figsize=(_WIDTH, _WIDTH))
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(counts) + 1)[:-1]
    upper.bar(edges, np.nan_to_num(accuracy), 1 / len(counts), align="edge", edgecolor="white", label="accuracy")
    upper.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", label="perfect")
    upper.plot(confidence, accuracy, ".", color="tab:orange", label="at mean probability")
    upper.set(title=f"expected calibration error {error:.4f}", ylabel="right answers", ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.bar(edges, counts, 1 / len(counts), align="edge", edgecolor="white", color=_GRAY)
    lower.set(xlabel="probability of the answer", ylabel="images", xlim=(0, 1))
    return figure


@_picture
def precision_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], num_classes: int) -> Figure:
    """Class -> (recalls, precisions, average precision), of some or all of so many classes."""
    figure, axes = _axes(height=_WIDTH + 0.08 * len(curves))
    for name, (recall, precision, average) in curves.items():
        axes.plot(recall, precision, label=f"{average:.3f} {_short(name)}", drawstyle="steps-post")
    title = "average precision" if len(curves) == num_classes else f"the {len(curves)} of {num_classes} ranked worst"
    axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


@_picture
def class_bars(classes: Sequence[str], values: np.ndarray, title: str) -> Figure:
    """A number in 0..1 of each class, the least first; of many classes the least ones are drawn."""
    order = np.argsort(values, kind="stable")[:_BARS]
    figure, axes = _axes(height=0.8 + 0.19 * len(order))
    axes.barh(range(len(order)), values[order])
    axes.set_yticks(range(len(order)), [_short(classes[label]) for label in order], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    for place, label in enumerate(order):
        axes.text(
            0.01, place, f"{values[label]:.3f}", va="center", fontsize=7, color="white" if values[label] > 0.1 else "k"
        )
    shown = "" if len(order) == len(classes) else f": the {len(order)} least of {len(classes)}"
    axes.set(title=title + shown, xlim=(0, 1))
    return figure


@_picture
def class_histogram(classes: Sequence[str], counts: Mapping[str, np.ndarray]) -> Figure:
    """What each data set is called -> its images of each class; the largest class of the first comes first."""
    order = np.argsort(-next(iter(counts.values())), kind="stable")
    figure, axes = _axes()
    width = 0.8 / len(counts)
    for number, (label, values) in enumerate(counts.items()):
        if len(classes) > _BARS:
            axes.step(range(len(order)), values[order], label=label)
        else:
            places = np.arange(len(order)) + (number - (len(counts) - 1) / 2) * width
            axes.bar(places, values[order], width, label=label)
    if len(classes) <= _BARS:
        axes.set_xticks(range(len(order)), [_short(classes[label]) for label in order], rotation=90, fontsize=8)
    else:
        axes.set(xlabel=f"{len(classes)} classes, by size")
    axes.set(ylabel="images")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper right", ncols=len(counts))
    return figure


def _axes(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height))
    return figure, figure.add_subplot()


def _short(name: str) -> str:
    return _plain(name if len(name) <= 18 else f"{name[:9]}…{name[-8:]}")  # names may differ at their ends


def _plain(text: str) -> str:
    """A line in which a dollar sign does not begin a formula, and bytes that are no text are question marks."""
    return " ".join(text.split()).replace("$", r"\$").encode("utf-8", "replace").decode()
