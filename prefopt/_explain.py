"""`python -m prefopt explain`: which loss and convention gave a number, from a file of log-probs."""

from __future__ import annotations

import dataclasses
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.testing import Explanation, explain

FOUND, NONE, BAD_INPUT = 0, 1, 2


def run(
    path: str,
    value: str,
    *,
    settings: Sequence[str] = (),
    losses: Sequence[str] = (),
    rtol: float = 1e-6,
    as_json: bool = False,
) -> int:
    """Prints what gives `value` on the inputs of the file; 0 found, 1 nothing does, 2 bad input."""
    try:
        inputs = {**read(path), **dict(map(_setting, settings))}
        texts = value.split(",")
        found = explain(
            texts[0] if len(texts) == 1 else texts, rtol=rtol, losses=losses or None, **inputs
        )
    except (ValueError, TypeError, OSError) as error:
        print(f"prefopt explain: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    print(json.dumps(as_dict(found)) if as_json else found)
    return FOUND if found.found else NONE


def as_dict(found: Explanation) -> dict[str, Any]:
    """The explanation as JSON has it."""
    return {
        **dataclasses.asdict(found),
        "matches": [each._asdict() for each in found.matches],
        "others": [each._asdict() for each in found.others],
    }


def read(path: str) -> dict[str, Any]:
    """Inputs and parameters by name, from a JSON object or an npz archive."""
    file = Path(path)
    if file.suffix == ".npz":
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise ValueError(f"{path}: not an npz archive ({error})") from None
        return {name: array if array.ndim else array.item() for name, array in arrays.items()}
    if file.suffix != ".json":
        raise ValueError(f"{path}: expected a .json or .npz file")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: expected an object of names and numbers")
    if bad := {"value", "rtol", "losses"} & stored.keys():
        raise ValueError(f"{path}: {bad.pop()} belongs on the command line")
    return stored


def _setting(text: str) -> tuple[str, Any]:
    """NAME=NUMBER, or NAME=WORD."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"--set: expected NAME=VALUE, got {text!r}")
    try:
        return name, float(value)
    except ValueError:
        return name, value
