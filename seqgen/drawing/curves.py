"""Curves, drawn with matplotlib: the bound while training, the KL of every step, the loss of a range test."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TRAIN, _VALID, _BAR = "#0072b2", "#d55e00", "#0072b2"


def bound_curves(history: Mapping[str, Sequence[float]], valid: str) -> bytes:
    """Training and held-out bound against epochs and against minutes, as SVG.

    `history` has columns `epoch`, `seconds` (of each epoch), `train/free_energy` and, where measured, `valid`
    (the held-out column's name, NaN where it was not measured).
    """
    import numpy as np

    figure = _figure(9.6, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    minutes = np.cumsum(np.nan_to_num(np.asarray(history["seconds"], float))) / 60
    curves = [("train/free_energy", "training", _TRAIN), (valid, "held out", _VALID)]
    lowest, highest = np.inf, -np.inf
    for axis, x, label in (
        (axes[0], np.asarray(history["epoch"], float), "epoch"),
        (axes[1], minutes, "minutes"),
    ):
        for column, name, colour in curves:
            y = np.asarray(history.get(column, ()), float)
            if y.size == 0:
                continue
            known = np.isfinite(y)
            style = {"marker": "o", "markersize": 3} if known.sum() < 40 else {}
            axis.plot(x[known], y[known], color=colour, label=name, linewidth=1.6, **style)
            if known.any():
                lowest, highest = min(lowest, y[known].min()), max(highest, y[known].max())
        axis.set_xlabel(label)
    if lowest > 0 and highest > 2 * lowest:
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        axes[0].set_yscale("log")
        for axis in axes:
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axis.yaxis.set_major_formatter(ScalarFormatter())
            axis.yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("F, nats per image")
    axes[0].legend(frameon=False)
    return _svg(figure)


def kl_bars(kl_per_step: Sequence[float]) -> bytes:
    """The mean KL of every step t = 1..T in nats, as SVG."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.6, 2.6)
    axis = figure.subplots()
    axis.bar(range(1, len(kl_per_step) + 1), kl_per_step, color=_BAR, width=0.8)
    axis.set_xlabel("step t")
    axis.set_ylabel("KL, nats")
    axis.set_xlim(0.4, len(kl_per_step) + 0.6)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure)


def rate_curve(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float | None
) -> bytes:
    """The loss of a range test's steps against their rates, log axis, the suggested rate marked; as PNG."""
    import numpy as np

    figure = _figure(9.6, 4.2)
    axis = figure.subplots()
    axis.plot(rates, losses, ".", color="#b4bac4", markersize=4, label="a step's loss")
    axis.plot(rates, smoothed, color=_TRAIN, linewidth=1.6, label="smoothed")
    if suggestion is not None:
        axis.axvline(
            suggestion, color=_VALID, linewidth=1.2, linestyle="--", label=f"falls fastest: {suggestion:.2g}"
        )
    axis.set_xscale("log")
    # A few losses of a training that diverges would press all others flat.
    low, high = np.min(losses), max(np.max(smoothed), np.percentile(losses, 90))
    axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss, nats per image")
    axis.legend(frameon=False, loc="upper left")
    return _written(figure, "png", {"Software": None})


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> bytes:
    return _written(figure, "svg", {"Date": None})


def _written(figure: Figure, form: str, metadata: dict[str, None]) -> bytes:
    import matplotlib

    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e3e6eb", linewidth=0.8)
        axis.set_axisbelow(True)
    stream = io.BytesIO()
    # A fixed salt, no date, no version: the same numbers give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "seqgen"}):
        figure.savefig(stream, format=form, dpi=150, metadata=metadata)
    return stream.getvalue()
