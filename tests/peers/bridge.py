"""Finds an interpreter for a convention, asks it, and hands back numbers."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

# convention -> the package whose code answers, and the version that the name promises
PACKAGES = {
    "trl-1.16": ("trl", "1.16."),
    "trl-1.13": ("trl", "1.13."),
    "liger-0.8.5": ("liger-kernel", "0.8.5"),
}
RUNNERS = {"trl": "trl_runner", "liger-kernel": "liger_runner"}


class PeerUnavailable(Exception):
    """Nothing here can run this convention; the message says what is missing."""


class PeerError(Exception):
    """The project's code raised; the message is `Type: text`."""


def peer_value(
    convention: str,
    loss: str,
    inputs: dict[str, Any],
    params: dict[str, Any] | None = None,
    dtype: str = "float64",
) -> dict[str, Any]:
    """What the project computes for a row of the loss list on the row's own inputs.

    Returns "mean", the scalar that the project minimises; "grads", name -> d mean / d input [same
    shape]; "rewards", name -> what it logs (a mean over the batch, or one a sequence);
    "losses" where it has one a sequence. Where an NLL term is part of the sum, grads of the log-probs
    hold its share, as d/d chosen_nll is not separate in the project ("nll_in_grads").

    Raises PeerUnavailable where no interpreter has the project, PeerError where its code raises.
    """
    request = {
        "loss": loss,
        "inputs": {key: plain(value) for key, value in inputs.items() if value is not None},
        "params": {key: plain(value) for key, value in (params or {}).items()},
        "dtype": dtype,
    }
    package, _ = PACKAGES[convention]
    answer = ask(convention, {"runner": RUNNERS[package], **request})
    if "error" in answer:
        raise PeerError(answer["error"])
    for key in ("grads", "rewards"):
        answer[key] = {name: np.asarray(value, float) for name, value in answer[key].items()}
    return answer


def why_not(convention: str) -> str | None:
    """None where peer_value can answer for it, else the reason for a skip."""
    package, version = PACKAGES[convention]
    found = installed(sys.executable)
    if found.get(package, "").startswith(version):
        return None
    other = os.environ.get("PREFOPT_PEERS_PYTHON")
    if other is None:
        return f"{package} {version} is not installed here and PREFOPT_PEERS_PYTHON is not set"
    if not installed(other).get(package, "").startswith(version):
        return f"neither this Python nor PREFOPT_PEERS_PYTHON={other} has {package} {version}"
    return None


def plain(value: Any) -> Any:
    """Lists of Python numbers: their repr gives float64 back exactly."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@functools.cache
def installed(python: str) -> dict[str, str]:
    """Versions of the peers' packages, by name, in that interpreter."""
    names = sorted({package for package, _ in PACKAGES.values()} | {"torch"})
    if python == sys.executable:
        return {name: version for name in names if (version := version_of(name))}
    script = (
        "import importlib.metadata as m, json, sys\n"
        "def v(n):\n try: return m.version(n)\n except m.PackageNotFoundError: return ''\n"
        "print(json.dumps({n: v(n) for n in sys.argv[1:]}))"
    )
    run = subprocess.run([python, "-c", script, *names], capture_output=True, text=True, check=True)
    return {name: version for name, version in json.loads(run.stdout).items() if version}


def version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def ask(convention: str, request: dict[str, Any]) -> dict[str, Any]:
    reason = why_not(convention)
    if reason:
        raise PeerUnavailable(reason)
    package, version = PACKAGES[convention]
    if installed(sys.executable).get(package, "").startswith(version):
        from peers.worker import answer

        return answer(request)
    return worker(os.environ["PREFOPT_PEERS_PYTHON"]).ask(request)


class Worker:
    """worker.py in another interpreter: a line of JSON in, a line of JSON out."""

    def __init__(self, python: str) -> None:
        tests = Path(__file__).resolve().parents[1]
        environment = {**os.environ, "PYTHONPATH": str(tests), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [python, "-m", "peers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        atexit.register(self.close)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peers' worker ended with code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=30)


@functools.cache
def worker(python: str) -> Worker:
    return Worker(python)
