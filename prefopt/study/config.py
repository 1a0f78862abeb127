"""What a study run is made of: the two presets, the scenarios, the hash that keeps different runs
apart.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace

import numpy as np

import prefopt

from .model import ModelConfig

SCHEMA = (
    1  # raise it when the meaning of a cell changes: cells of another schema are not taken up again
)

SCENARIOS = ("sft", "base", "instruct")
SCENARIO_TITLES = {
    "sft": "1  SFT, then align",
    "base": "2  Align without SFT",
    "instruct": "3  Align an instruction-tuned model",
}
START_TITLES = {"sft": "Base + SFT", "base": "Base", "instruct": "Base + instruction tuning"}


@dataclass(frozen=True)
class Training:
    """Everything that decides the bytes of a cell besides data, method, scenario, size and seed."""

    model: ModelConfig = field(default_factory=ModelConfig)
    answer_tokens: int = 32  # answers of the pairs are cut to this many tokens
    text_tokens: int = 128  # held-out texts of the language-model table are cut to this many
    base_text_tokens: int | None = 128  # texts that the base model learns from; None: whole
    base_epochs: int = 1
    tune_epochs: int = 1  # SFT and instruction tuning
    base_batch_tokens: int = 256
    tune_batch_tokens: int = 1024
    base_learning_rate: float = 8e-3
    tune_learning_rate: float = 1e-3
    align_epochs: int = 1
    align_batch_pairs: int = 16
    align_learning_rate: float = 1e-3
    beta: float = 0.1
    cpo_alpha: float = 1.0
    train_scored: int = 64  # pairs of the training set that are scored beside the held-out ones


@dataclass(frozen=True)
class Preset:
    """A named run."""

    training: Training
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]


PRESETS = {
    "quick": Preset(Training(), sizes=(32, 128), seeds=(0, 1)),
    "full": Preset(
        Training(
            model=ModelConfig(context=8, hidden=192, inner=256),
            answer_tokens=128,
            text_tokens=256,
            base_text_tokens=None,
            base_batch_tokens=1024,
            base_learning_rate=4e-3,
            base_epochs=3,
            tune_epochs=2,
            align_epochs=1,
            train_scored=256,
        ),
        sizes=(32, 64, 128, 256, 512),
        seeds=(0, 1, 2),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One trained and scored model."""

    scenario: str
    method: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        """File stem and progress label."""
        return f"{self.scenario}-{self.method}-n{self.size}-s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A run: what is trained how, on which cells."""

    preset: str
    training: Training
    scenarios: tuple[str, ...]
    methods: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]

    @property
    def cells(self) -> list[Cell]:
        """Every cell, seeds outermost so that a killed run leaves whole seeds."""
        return [
            Cell(scenario, method, size, seed)
            for seed in self.seeds
            for scenario in self.scenarios
            for method in self.methods
            for size in self.sizes
        ]

    def fit_to(self, train_pairs: int) -> Plan:
        """Sizes no larger than the training set; what was larger becomes the whole set."""
        return replace(
            self, sizes=tuple(dict.fromkeys(min(size, train_pairs) for size in self.sizes))
        )


def fingerprint(training: Training, data_digest: str) -> str:
    """Names the folder of a run's cells: equal for runs whose cells may be mixed, so never across
    configurations.
    """
    parts = [SCHEMA, prefopt.__version__, np.__version__, asdict(training), data_digest]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def training_from_dict(values: dict[str, object]) -> Training:
    """Inverse of dataclasses.asdict, for the workers."""
    model = values["model"]
    assert isinstance(model, dict)
    rest = {name: value for name, value in values.items() if name != "model"}
    return Training(model=ModelConfig(**model), **rest)  # type: ignore[arg-type]
