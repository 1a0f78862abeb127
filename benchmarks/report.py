"""What a benchmark prints and keeps: machine, memory, tables, JSON beside the accepted one."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from common import Target, Timing

RESULTS = Path(__file__).parent / "results"

# ---- the machine ---------------------------------------------------------------------------------


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Date, machine, threads and versions; `load` tells a quiet machine from a busy one."""
    import torch

    import prefopt

    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    packages = ("numpy", "torch", "trl", "transformers")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": platform.platform(),
        "huge_pages": huge.read_text().strip() if huge.exists() else None,
        "load": list(os.getloadavg()),
        "threads": options.threads,
        "pinned_isa": options.isa,
        "isas": list(prefopt.isas()),
        "isa": prefopt._core.isa(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "prefopt": prefopt.__version__,
        "build": prefopt._core.build_info(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "quick": options.quick,
    }


def describe(facts: dict[str, Any]) -> str:
    """The head of a printed report."""
    versions = ", ".join(
        f"{name} {version}" for name, version in facts["versions"].items() if version
    )
    quiet = "" if facts["load"][0] < 0.5 else "  ** BUSY MACHINE: these timings mean little **"
    pinned = f", pinned to {facts['pinned_isa']}" if facts["pinned_isa"] else ""
    return (
        f"{facts['date']}  {facts['cpu']}, {facts['cpus']} CPUs, {facts['threads']} threads, "
        f"prefopt on {facts['isa']}, torch on {facts['torch_isa']}{pinned}\n"
        f"prefopt {facts['prefopt']}, Python {facts['python']}, {versions}\n"
        f"load {facts['load'][0]:.2f}{quiet}\n"
    )


def peak_rss_beyond(run: Callable[[], Any]) -> int | None:
    """Bytes of resident memory that `run` needed at its peak beyond what was resident before
    (Linux).
    """

    def status(key: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
        raise KeyError(key)

    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what malloc keeps from earlier runs would hide a need
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = status("VmRSS")
        result = run()
        peak = status("VmHWM")
        del result
    except (OSError, KeyError, AttributeError):
        return None
    return max(0, peak - before)


# ---- reports -------------------------------------------------------------------------------------


def table(timings: Sequence[Timing], reference: Timing | None = None) -> str:
    """One line a peer, fastest first; GB/s is what was read once over the median time."""
    lines = [
        f"{'peer':44} {'layout':13} {'pages':15} {'rows':>5} {'median':>10} {'min':>10} "
        f"{'GB/s':>7} {'x sum':>6} {'max error':>10}"
    ]
    for each in sorted(timings, key=lambda timing: timing.median):
        peer = each.peer
        speed = f"{peer.read_bytes / each.median / 1e9:7.1f}" if peer.read_bytes else " " * 7
        share = f"{each.median / reference.median:6.2f}" if reference else " " * 6
        error = f"{each.error:10.1e}" if each.error is not None else " " * 10
        lines.append(
            f"{peer.name:44} {peer.layout:13} {peer.pages:15} {peer.unmasked:5.0%} "
            f"{_seconds(each.median)} {_seconds(each.minimum)} {speed} {share} {error}"
        )
    return "\n".join(lines)


def _seconds(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:7.2f} us"
    return f"{value * 1e3:7.2f} ms"


def write(
    name: str,
    options: argparse.Namespace,
    facts: dict[str, Any],
    records: Any,
    targets: Sequence[Target],
) -> Path:
    """results/NAME.json; a quick run writes NAME.quick.json. Says what moved since the accepted
    result.
    """
    RESULTS.mkdir(exist_ok=True)
    stem = name + (f".{options.isa}" if options.isa else "") + (".quick" if options.quick else "")
    path = RESULTS / f"{stem}.json"
    content = {
        "machine": facts,
        "targets": [{**target.__dict__, "passed": target.passed} for target in targets],
        "records": records,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    accepted = RESULTS / f"{stem}.accepted.json"
    if accepted.exists():
        print(_compare(json.loads(accepted.read_text()), records))
    if options.accept:
        accepted.write_text(path.read_text())
    return path


def _compare(accepted: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    def key(record: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(
            record.get(name) for name in ("section", "shape", "dtype", "name", "layout", "unmasked")
        )

    before = {repr(key(record)): record["median_s"] for record in accepted["records"]}
    lines = [
        f"against the accepted result of {accepted['machine']['date']}, "
        "ours that moved by 5 % or more:"
    ]
    for record in records:
        old = before.get(repr(key(record)))
        if (
            old
            and record["name"].startswith("prefopt")
            and abs(record["median_s"] / old - 1) >= 0.05
        ):
            change = record["median_s"] / old - 1
            lines.append(
                f"  {change:+7.1%}  {record['section']} {record['shape']} {record['dtype']} "
                f"{record['name']}"
            )
    return "\n".join(lines if len(lines) > 1 else [lines[0], "  none"])
