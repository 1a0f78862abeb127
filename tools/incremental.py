"""Runs a command only if what it made is out of date.

A result is fresh if it was made by the very same command and is newer than every file that its
dependency file (the compiler's, beside it, with suffix .d) names.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path


def is_fresh(root: Path, target: Path, command: str) -> bool:
    """True if target was made by command and is newer than everything its dependency file names."""
    command_file = target.with_suffix(".cmd")
    if not target.exists() or not command_file.exists() or command_file.read_text() != command:
        return False
    made = target.stat().st_mtime_ns
    listed = target.with_suffix(".d")
    if not listed.exists():
        return False
    names = shlex.split(listed.read_text().replace("\\\n", " "))[1:]
    try:
        return all(
            os.stat(root / name).st_mtime_ns < made for name in names if not name.endswith(":")
        )
    except FileNotFoundError:
        return False


def make(root: Path, target: Path, command: Sequence[str]) -> None:
    """Run command in root unless target is fresh."""
    text = shlex.join(command)
    if not is_fresh(root, target, text):
        subprocess.run(command, cwd=root, check=True)
        target.with_suffix(".cmd").write_text(text)


def is_older(target: Path, inputs: Sequence[Path]) -> bool:
    """True if target is missing or older than an input."""
    if not target.exists():
        return True
    made = target.stat().st_mtime_ns
    return any(item.stat().st_mtime_ns > made for item in inputs)
