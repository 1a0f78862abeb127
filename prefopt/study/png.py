"""Draws figures as PNG files with matplotlib, where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .atomic import replace_file
from .figures import Figure, Panel

MARKS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "none": ""}
DPI = 150


def write_pngs(figures: list[Figure], folder: Path) -> list[str] | None:
    """Write <name>.png for every figure and return the names; None where matplotlib is absent."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        return None
    names = []
    for figure in figures:
        # no pyplot: it would keep state of its own and open a window system
        canvas = Canvas(figsize=(4.0 * len(figure.panels), 3.6), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = np.atleast_1d(canvas.subplots(1, len(figure.panels)))
        for axis, panel in zip(axes, figure.panels, strict=True):
            _draw(axis, panel)
        named: dict[str, Any] = {}  # label to handle, of all panels: each once
        for axis in axes:
            handles, labels = axis.get_legend_handles_labels()
            named |= dict(zip(labels, handles, strict=True))
        canvas.legend(
            list(named.values()),
            list(named),
            loc="outside lower center",
            ncols=len(named),
            frameon=False,
        )
        name = f"{figure.name}.png"
        # no software or date in the file: the same numbers give the same picture
        replace_file(
            folder / name,
            lambda stream, canvas=canvas: canvas.savefig(  # type: ignore[misc]
                stream, dpi=DPI, format="png", metadata={"Software": None}
            ),
        )
        names.append(name)
    return names


def _draw(axis: object, panel: Panel) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    for number, rule in enumerate(panel.rules):
        style = "--" if number == 0 else ":"
        axis.axhline(
            rule.y, color="#888888", linewidth=1, linestyle=style, label=rule.label or None
        )
    if panel.kind == "bars":
        _draw_bars(axis, panel)
    else:
        for series in panel.series:
            line: dict[str, Any] = {
                "color": series.colour,
                "marker": MARKS[series.marker],
                "markersize": 4,
                "linewidth": 1.4,
            }
            if series.low:
                below = np.subtract(series.y, series.low)
                above = np.subtract(series.high, series.y)
                axis.errorbar(
                    series.x,
                    series.y,
                    yerr=[below, above],
                    label=series.label,
                    elinewidth=0.9,
                    **line,
                )
            else:
                axis.plot(series.x, series.y, label=series.label, **line)
    if panel.x_log:
        axis.set_xscale("log")
    if panel.ticks:
        axis.set_xticks([place for place, _ in panel.ticks], [name for _, name in panel.ticks])
        axis.minorticks_off()
    if panel.y_range:
        axis.set_ylim(*panel.y_range)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_bars(axis: object, panel: Panel) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    width = 0.8 / len(panel.series)
    for order, series in enumerate(panel.series):
        places = np.asarray(series.x) + (order - (len(panel.series) - 1) / 2) * width
        errors = [np.subtract(series.y, series.low), np.subtract(series.high, series.y)]
        axis.bar(
            places, series.y, width * 0.92, yerr=errors, color=series.colour, label=series.label,
            error_kw={"elinewidth": 0.9},
        )  # fmt: skip
