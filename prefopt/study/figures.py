"""The report's figures as data: panels of lines or bars. svg.py and png.py draw them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .config import SCENARIO_TITLES
from .methods import TITLES, start_loss
from .results import Study
from .stats import CHANCE

COLOURS = {"dpo": "#2f6db5", "ipo": "#d97a1e", "kto": "#2e8b62", "cpo": "#a0438f"}
SCENARIO_COLOURS = {"sft": "#2f6db5", "base": "#777777", "instruct": "#c2452d"}
MARKERS = {"dpo": "circle", "ipo": "square", "kto": "triangle", "cpo": "diamond"}
Marker = Literal["circle", "square", "triangle", "diamond", "none"]
CURVE_POINTS = 60  # a longer training curve is averaged down to about this many points


@dataclass(frozen=True)
class Series:
    """A line with optional intervals, or one colour of bars."""

    label: str
    colour: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    marker: Marker = "none"


@dataclass(frozen=True)
class Rule:
    """A horizontal reference line."""

    label: str
    y: float


@dataclass(frozen=True)
class Panel:
    """One pair of axes. Bars stand at x = 0, 1, ..., named by ticks."""

    title: str
    series: list[Series]
    x_label: str
    y_label: str
    kind: Literal["lines", "bars"] = "lines"
    x_log: bool = False
    ticks: list[tuple[float, str]] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Figure:
    """Panels side by side under one caption; name is the PNG's stem."""

    name: str
    caption: str
    panels: list[Panel]

    @property
    def rule_labels(self) -> dict[str, int]:
        """Labels of the reference lines of all panels, each with its number within its panel."""
        return {rule.label: i for panel in self.panels for i, rule in enumerate(panel.rules)}


def figures(study: Study) -> list[Figure]:
    """All figures of a study."""
    return [
        accuracy_figure(study, "reward"),
        accuracy_figure(study, "logp"),
        drift_figure(study),
        curve_figure(study),
    ]


def accuracy_figure(study: Study, which: Literal["reward", "logp"]) -> Figure:
    """Held-out accuracy against the number of training pairs, a panel per scenario."""
    plan = study.plan
    low, high = 100.0, 0.0
    panels = []
    longer = 100 * study.data["longer_wins"]["value"]
    rules = [Rule("chance", 100 * CHANCE), Rule("longer answer wins", longer)]
    for scenario in plan.scenarios:
        series = []
        for order, method in enumerate(plan.methods):
            intervals = [
                getattr(study.summary(scenario, method, size), which) for size in plan.sizes
            ]
            # side by side, so that intervals do not hide each other
            shift = 1.0 + 0.035 * (order - (len(plan.methods) - 1) / 2)
            series.append(
                Series(
                    TITLES[method],
                    COLOURS[method],
                    [size * shift for size in plan.sizes],
                    [100 * interval.value for interval in intervals],
                    [100 * interval.low for interval in intervals],
                    [100 * interval.high for interval in intervals],
                    MARKERS[method],  # type: ignore[arg-type]
                )
            )
            low = min(low, *(100 * interval.low for interval in intervals))
            high = max(high, *(100 * interval.high for interval in intervals))
        ticks = [(float(size), str(size)) for size in plan.sizes]
        panels.append(
            Panel(
                SCENARIO_TITLES[scenario],
                series,
                "training pairs",
                "held-out accuracy, %",
                x_log=True,
                ticks=ticks,
                rules=rules,
            )
        )
    shared = (min(low, 45) - 1, max(high, 60) + 1)
    panels = [Panel(**(vars(panel) | {"y_range": shared})) for panel in panels]
    names = {
        "reward": (
            "accuracy_reward",
            "Implicit reward: is log p - log p(start) higher for the chosen answer?",
        ),
        "logp": ("accuracy_logp", "Log-probability: is log p itself higher for the chosen answer?"),
    }
    name, caption = names[which]
    return Figure(name, f"{caption} Bars: 95 % intervals over held-out pairs.", panels)


def drift_figure(study: Study) -> Figure:
    """How far the log-probs of chosen and rejected held-out answers moved, at the largest size."""
    plan, size = study.plan, max(study.plan.sizes)
    panels = []
    for scenario in plan.scenarios:
        summaries = [study.summary(scenario, method, size) for method in plan.methods]
        places = [float(i) for i in range(len(summaries))]
        series = [
            Series(label, colour, places, [s.means[name] for s in summaries],
                   [s.ranges[name][0] for s in summaries], [s.ranges[name][1] for s in summaries])
            for label, colour, name in (
                ("chosen", "#2e8b62", "chosen_drift"), ("rejected", "#c2452d", "rejected_drift"),
            )
        ]  # fmt: skip
        ticks = [(float(i), TITLES[method]) for i, method in enumerate(plan.methods)]
        panels.append(
            Panel(SCENARIO_TITLES[scenario], series, "", "log p - log p(start), nats an answer",
                  kind="bars", ticks=ticks, rules=[Rule("", 0.0)])
        )  # fmt: skip
    values = [
        value
        for panel in panels
        for series in panel.series
        for value in (*series.low, *series.high, 0.0)
    ]
    margin = 0.08 * (max(values) - min(values) or 1.0)
    shared = (min(values) - margin, max(values) + margin)
    panels = [Panel(**(vars(panel) | {"y_range": shared})) for panel in panels]
    caption = (
        f"Held-out drift from the start after {size} pairs. Whiskers: lowest and highest seed."
    )
    return Figure("drift", caption, panels)


def curve_figure(study: Study) -> Figure:
    """Training loss at the largest size, one panel a method, one line a scenario."""
    plan, size = study.plan, max(study.plan.sizes)
    panels = []
    for method in plan.methods:
        series = []
        for scenario in plan.scenarios:
            x, y = _thin(study.summary(scenario, method, size).loss)
            series.append(Series(SCENARIO_TITLES[scenario][3:], SCENARIO_COLOURS[scenario], x, y))
        at_start = start_loss(method, plan.training.beta)
        rules = [] if at_start is None else [Rule("loss of the start model", at_start)]
        panels.append(Panel(TITLES[method], series, "step", "loss", rules=rules))
    caption = (
        f"Training loss over {size} pairs, mean of the seeds; every loss has its own scale. A batch is "
        "measured before it is learnt from: above the dashed line are pairs on which what was learnt "
        "from others did harm. CPO's start depends on the data."
    )
    return Figure("training_curves", caption, panels)


def _thin(values: list[float]) -> tuple[list[float], list[float]]:
    width = max(1, len(values) // CURVE_POINTS)
    x = [
        first + (min(width, len(values) - first) + 1) / 2 for first in range(0, len(values), width)
    ]
    y = [float(np.mean(values[first : first + width])) for first in range(0, len(values), width)]
    return x, y
