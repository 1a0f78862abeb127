"""``python -m prefopt doctor``: what this installation is and what it runs on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

import prefopt
from prefopt import _core
from prefopt._blas import ensure_loaded

INTEGRATIONS = (
    "numpy",
    "torch",
    "jax",
    "trl",
    "liger-kernel",
    "transformers",
    "ml_dtypes",
    "matplotlib",
    "rich",
)
ENVIRONMENT = ("PREFOPT_ISA", "PREFOPT_BLAS", "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_WAIT_POLICY")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def chosen_isa() -> tuple[str | None, str | None]:
    """(row that kernels run, problem): a bad PREFOPT_ISA raises at the first kernel call."""
    try:
        return _core.isa(), None
    except ValueError as error:
        return None, str(error)


def _blas() -> str:
    """What multiplies in the linear op, which raises at its first call for a bad PREFOPT_BLAS."""
    try:
        return ensure_loaded()
    except (OSError, ValueError) as error:
        return f"none: PREFOPT_BLAS: {error}"


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def collect() -> dict[str, Any]:
    """Return everything ``doctor`` says as a dict that json.dumps takes."""
    build = dict(_core.build_info())
    chosen, problem = chosen_isa()
    usable = list(prefopt.isas())
    cuda = prefopt.cuda_available()
    return {
        "prefopt": prefopt.__version__,
        "location": os.path.dirname(os.path.abspath(prefopt.__file__)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": usable_cpus(),
        "isa": {
            "known": str(build["isas"]).split(),
            "usable": usable,
            "chosen": chosen,
            "problem": problem,
        },
        "threads": prefopt.get_num_threads(),
        "openmp": bool(build["openmp"]),
        "compiler": f"{build['compiler']} {build['compiler_version']}",
        "flags": build["flags"],
        "sanitize": build["sanitize"],
        "blas": _blas(),
        "cuda": {"available": cuda.available, "reason": cuda.reason},
        "integrations": {name: _version(name) for name in INTEGRATIONS},
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    isa = facts["isa"]
    chosen = isa["chosen"] or f"none ({isa['problem']})"
    openmp = "OpenMP" if facts["openmp"] else "no OpenMP: one thread"
    cuda = "available" if facts["cuda"]["available"] else facts["cuda"]["reason"]
    lines = [
        f"prefopt       {facts['prefopt']}  ({facts['location']})",
        f"python        {facts['python']} on {facts['platform']}",
        f"processor     {facts['processor']}, {facts['cpus']} usable CPUs",
        f"isa           {chosen}   usable here: {', '.join(isa['usable'])}"
        f"   known: {', '.join(isa['known'])}",
        f"threads       {facts['threads']} ({openmp})",
        f"compiler      {facts['compiler']}   {facts['flags']}",
        f"blas          {facts['blas']}",
        f"cuda          {cuda}",
    ]
    for name, version in facts["integrations"].items():
        lines.append(f"{name:<14}{version or 'not installed'}")
    for name, value in facts["environment"].items():
        lines.append(f"{name:<14}={value}")
    return lines


def run(*, as_json: bool) -> int:
    """Print the facts. Returns 0, or 1 if no ISA row can be chosen (a bad PREFOPT_ISA)."""
    facts = collect()
    if as_json:
        json.dump(facts, sys.stdout, indent=2)
        print()
    else:
        print("\n".join(_lines(facts)))
    return 0 if facts["isa"]["chosen"] is not None else 1
