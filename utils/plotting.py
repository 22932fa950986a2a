"""Figures of training and of results, drawn by matplotlib without a display and legible on a phone.

Each function returns a matplotlib Figure, which TensorBoard takes as it is; `render` encodes it.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib import font_manager, rc, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure  # not pyplot, which looks for a display

Curve = tuple[Sequence[float], Sequence[float]]  # epochs, values
_WIDTH, _HEIGHT, _DPI = 5.2, 3.4, 160
_MAX_BARS = 40  # classes are labelled up to this number
_MAX_CELLS = 20  # a confusion matrix of up to this many classes shows its numbers
MAX_CURVES = 10  # precision-recall curves are drawn for up to this many classes
_GRAY = "0.55"
# Fonts with Chinese, Japanese and Korean letters, on the systems that have them.
_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei")


@contextmanager
def _style() -> Iterator[None]:
    """The style of all figures, with fonts for class names in any language."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box if no font has it
        rc("font", size=9, family=["DejaVu Sans", *(font for font in _FONTS if font in installed)])
        rc("axes", titlesize=10)
        rc("axes.spines", top=False, right=False)
        rc("legend", frameon=False)
        rc("figure.constrained_layout", use=True)
        yield


class _Figure(Figure):
    """A figure that keeps the style wherever it is drawn, because matplotlib makes tick labels only then."""

    draw = _style()(Figure.draw)


def render(figure: Figure) -> bytes:
    """Encodes a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DPI)
    return buffer.getvalue()


@_style()
def learning_curves(curves: Mapping[str, Mapping[str, Curve]], chosen: float | None) -> Figure:
    """Panel title -> {name of a curve: (epochs, values)}; the `chosen` epoch is marked."""
    figure = _Figure(figsize=(_WIDTH, _HEIGHT * (0.3 + 0.7 * len(curves))))
    panels = np.atleast_1d(figure.subplots(len(curves), sharex=True))
    for axes, (title, named) in zip(panels, curves.items(), strict=True):
        for name, (epochs, values) in named.items():
            axes.plot(epochs, values, label=_plain(name), marker="o" if len(values) < 20 else None, markersize=3)
        if chosen is not None:
            axes.axvline(chosen, color=_GRAY, linestyle=":", label=f"best: epoch {chosen:g}")
        shown = [value for _, values in named.values() for value in values]
        if title == "loss" and min(shown) > 0 and max(shown) > 20 * min(shown):
            axes.set_yscale("log")
        axes.set(title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    axes.set(xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


@_style()
def confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix (classes, classes), rows the true classes: images as numbers, shares of a row as colours."""
    title = "images; colour: share of the true class"
    figure, axes = _axes(height=_WIDTH, title=title, xlabel="predicted", ylabel="true")
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    has_numbers = len(classes) <= _MAX_CELLS
    norm = PowerNorm(1 if has_numbers else 0.5, vmin=0, vmax=1)  # small shares stay visible
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    axes.spines[:].set_visible(False)
    if len(classes) <= _MAX_BARS:
        axes.set_xticks(range(len(classes)), [_short(name) for name in classes], rotation=90)
        axes.set_yticks(range(len(classes)), [_short(name) for name in classes])
        axes.tick_params(length=0, labelsize=9 if has_numbers else 6)
    if has_numbers:
        size = min(9, 90 / len(classes))
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", fontsize=size, color=color)
    else:
        figure.colorbar(image, shrink=0.7)
    return figure


@_style()
def reliability_diagram(confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, error: float) -> Figure:
    """Mean confidence, accuracy (NaN in empty bins) and number of images, each (bins,); calibration `error` (ECE)."""
    figure = _Figure(figsize=(_WIDTH, _WIDTH))
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(counts) + 1)[:-1]
    upper.bar(edges, np.nan_to_num(accuracy), 1 / len(counts), align="edge", edgecolor="white", label="accuracy")
    upper.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", label="perfect calibration")
    upper.plot(confidence, accuracy, ".", color="tab:orange", label="at mean confidence")
    upper.set(title=f"Reliability diagram (ECE {error:.4f})", ylabel="accuracy", ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.bar(edges, counts, 1 / len(counts), align="edge", edgecolor="white", color=_GRAY)
    lower.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    return figure


@_style()
def precision_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], num_classes: int) -> Figure:
    """Class -> (recalls (n,), precisions (n,), average precision), for some or all of `num_classes` classes."""
    title = "average precision" if len(curves) == num_classes else f"{len(curves)} worst of {num_classes} classes"
    figure, axes = _axes(height=_WIDTH + 0.08 * len(curves), title=title, xlabel="recall", ylabel="precision")
    for name, (recall, precision, average) in curves.items():
        axes.plot(recall, precision, label=f"{average:.3f} {_short(name)}", drawstyle="steps-post")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


@_style()
def scatter(targets: np.ndarray, predictions: np.ndarray, name: str) -> Figure:
    """Predicted against true values of one output, each (n,); points on the dashed diagonal are exact."""
    figure, axes = _axes(height=_WIDTH, title=_plain(name), xlabel="true", ylabel="predicted")
    axes.scatter(targets, predictions, s=8, alpha=0.5, linewidths=0)
    limits = min(axes.get_xlim() + axes.get_ylim()), max(axes.get_xlim() + axes.get_ylim())
    axes.axline((0, 0), slope=1, color=_GRAY, linestyle="--")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.grid(alpha=0.3)
    return figure


def _axes(height: float, **labels: str) -> tuple[Figure, Axes]:
    figure = _Figure(figsize=(_WIDTH, height))
    return figure, figure.add_subplot(**labels)


def _short(name: str) -> str:
    return _plain(name if len(name) <= 18 else f"{name[:9]}…{name[-8:]}")  # names may differ at their ends


def _plain(text: str) -> str:
    """The text on one line, without formulas (dollar signs) and with question marks for undecodable bytes."""
    return " ".join(text.split()).replace("$", r"\$").encode("utf-8", "replace").decode()
