"""Draws figures as inline SVG: the report needs no drawing library and no second file."""

from __future__ import annotations

import math
from html import escape

from .figures import Figure, Marker, Panel, Series

WIDTH, HEIGHT = 340, 260  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 26, 40
GREY = "#8a8f98"


class _Scale:
    """Data to pixels on both axes."""

    def __init__(self, panel: Panel) -> None:
        self.x_log = panel.x_log
        xs = [x for series in panel.series for x in series.x] + [place for place, _ in panel.ticks]
        ys = [y for series in panel.series for y in (*series.y, *series.low, *series.high)]
        low, high = min(map(self._x, xs)), max(map(self._x, xs))
        room = 0.5 if panel.kind == "bars" else 0.05 * ((high - low) or 1.0)
        self.x_low, self.x_high = low - room, high + room
        if panel.y_range:
            self.y_low, self.y_high = panel.y_range
        else:
            room = 0.06 * ((max(ys) - min(ys)) or 1.0)
            self.y_low, self.y_high = min(ys) - room, max(ys) + room

    def _x(self, value: float) -> float:
        return math.log(value) if self.x_log else value

    def x(self, value: float) -> float:
        share = (self._x(value) - self.x_low) / (self.x_high - self.x_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def figure_svg(figure: Figure) -> str:
    """A <figure> element: the panels (they wrap on a narrow page), one legend, the caption."""
    panels = "".join(f'<div class="panel">{panel_svg(panel)}</div>' for panel in figure.panels)
    keys = "".join(_key(series) for series in figure.panels[0].series)
    for label, number in figure.rule_labels.items():
        dash = "5 4" if number == 0 else "2 3"
        if label:
            line = f'<line x1="0" y1="7" x2="26" y2="7" stroke="{GREY}" stroke-dasharray="{dash}"/>'
            keys += f'<span><svg width="26" height="14">{line}</svg> {escape(label)}</span>'
    return (
        f'<figure><div class="panels">{panels}</div><div class="legend">{keys}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def panel_svg(panel: Panel) -> str:
    """One panel as an <svg> element."""
    scale = _Scale(panel)
    parts = [_text(LEFT, 15, panel.title, "start", "title"), *_axes(panel, scale)]
    for number, rule in enumerate(panel.rules):
        dash = "5 4" if number == 0 else "2 3"
        y = scale.y(rule.y)
        if TOP <= y <= HEIGHT - BOTTOM:
            line = f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"'
            parts.append(f'{line} stroke="{GREY}" stroke-dasharray="{dash}"/>')
    for order, series in enumerate(panel.series):
        if panel.kind == "bars":
            parts += _bars(panel, series, order, scale)
        else:
            parts += _line(series, scale)
    label = escape(f"{panel.title}: {panel.y_label} by {panel.x_label or 'method'}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def _axes(panel: Panel, scale: _Scale) -> list[str]:
    parts = []
    for value, name in y_ticks(scale.y_low, scale.y_high):
        y = scale.y(value)
        parts.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e6e8eb"/>'
        )
        parts.append(_text(LEFT - 6, y + 4, name, "end"))
    bottom = HEIGHT - BOTTOM
    ticks = panel.ticks or [
        (value, name) for value, name in y_ticks(scale.x_low, scale.x_high) if value > 0
    ]
    for value, name in ticks:
        x = scale.x(value)
        parts.append(
            f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}" stroke="{GREY}"/>'
        )
        parts.append(_text(x, bottom + 16, name, "middle"))
    parts.append(
        f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}" stroke="{GREY}"/>'
    )
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, panel.x_label, "middle"))
    middle = (TOP + bottom) / 2
    label = _text(0, 0, panel.y_label, "middle")
    parts.append(f'<g transform="translate(12 {middle:.1f}) rotate(-90)">{label}</g>')
    return parts


def _line(series: Series, scale: _Scale) -> list[str]:
    points = [(scale.x(x), scale.y(y)) for x, y in zip(series.x, series.y, strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{series.colour}" stroke-width="1.6"/>']
    for (x, _), low, high in zip(points, series.low, series.high, strict=False):
        parts.append(_whisker(x, scale.y(low), scale.y(high), series.colour))
    parts += [_marker(series.marker, x, y, series.colour) for x, y in points]
    return parts


def _bars(panel: Panel, series: Series, order: int, scale: _Scale) -> list[str]:
    count = len(panel.series)
    width = 0.8 / count * (scale.x(1.0) - scale.x(0.0))
    parts = []
    for x, y, low, high in zip(series.x, series.y, series.low, series.high, strict=True):
        middle = scale.x(x) + (order - (count - 1) / 2) * width
        top, bottom = sorted((scale.y(y), scale.y(0.0)))
        parts.append(
            f'<rect x="{middle - 0.46 * width:.1f}" y="{top:.1f}" width="{0.92 * width:.1f}" '
            f'height="{max(0.5, bottom - top):.1f}" fill="{series.colour}"/>'
        )
        parts.append(_whisker(middle, scale.y(low), scale.y(high), "#222222"))
    return parts


def _whisker(x: float, low: float, high: float, colour: str) -> str:
    ends = f'x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"'
    return f'<line {ends} stroke="{colour}" opacity="0.75"/>'


def _marker(marker: Marker, x: float, y: float, colour: str) -> str:
    if marker == "none":
        return ""
    if marker == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{colour}"/>'
    shapes: dict[str, list[tuple[float, float]]] = {
        "square": [(-3, -3), (3, -3), (3, 3), (-3, 3)],
        "triangle": [(0, -4), (3.8, 3), (-3.8, 3)],
        "diamond": [(0, -4.4), (4.4, 0), (0, 4.4), (-4.4, 0)],
    }
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[marker])
    return f'<polygon points="{points}" fill="{colour}"/>'


def _key(series: Series) -> str:
    if series.marker == "none":
        mark = f'<rect x="4" y="3" width="18" height="8" fill="{series.colour}"/>'
    else:
        line = f'<line x1="0" y1="7" x2="26" y2="7" stroke="{series.colour}" stroke-width="1.6"/>'
        mark = line + _marker(series.marker, 13, 7, series.colour)
    return f'<span><svg width="26" height="14">{mark}</svg> {escape(series.label)}</span>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
    )


def y_ticks(low: float, high: float, wanted: int = 5) -> list[tuple[float, str]]:
    """Round values inside [low, high], about `wanted` of them, with their names."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    values = []
    while first * step <= high + 1e-9 * step:
        values.append((first * step, f"{first * step:.{digits}f}"))
        first += 1
    return values
