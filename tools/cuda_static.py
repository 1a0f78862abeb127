"""Compile the CUDA sources for every architecture and hold the machine code to its budgets.

    python tools/cuda_static.py [--accept] [--sources PATH]...

nvcc makes code for every architecture with its warnings, and ptxas's of double precision, as errors.
cuobjdump's listing of it then gives, for each kernel, registers, stack, shared memory, occupancy, and
the loop that loads most. Gates (tools/cuda_budgets.py): nothing is spilled and no array is in local
memory (both take stack), but for what is allowed; a loop that loads 128 bits at a time loads nothing
narrower and has neither local memory nor double precision; loops that load less are as few as
allowed; instructions an element stay within the budget. The table is compared with
benchmarks/results/cuda_static.json, the last that was accepted; --accept writes it. Nothing here says
how fast anything is.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cuda_toolkit
import sass
from cuda_budgets import BUDGETS, DOUBLE_PRECISION, Budget
from incremental import make

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cuda_static"
ACCEPTED = ROOT / "benchmarks" / "results" / "cuda_static.json"
# Bytes of shared memory a block that the driver takes: listed with the kernel's own from sm_90 on.
RESERVED = 1024


@dataclass
class Row:
    """One kernel on one architecture."""

    kernel: str
    architecture: int
    registers: int
    stack_bytes: int  # of a thread: spilled registers, local arrays
    shared_bytes: int
    occupancy: int  # per cent
    loop_instructions: int  # of the innermost loop with most 128-bit loads; 0 if there is none
    loop_loads: int  # 128-bit loads in it
    narrow_loops: int

    @property
    def key(self) -> str:
        return f"{self.kernel} sm_{self.architecture}"


class Failure(RuntimeError):
    """A compiler's error, or a tool that is missing."""


def _tool(name: str) -> str:
    """cuobjdump and nvdisasm: from their wheels, or on PATH."""
    wheel = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
    found = shutil.which(name, path=f"{wheel}:{os.environ['PATH']}")
    if found is None:
        raise Failure(f"{name} is missing: pip install nvidia-cuda-{name}")
    return found


def _run(command: Sequence[str], **options: object) -> str:
    path = f"{Path(_tool('nvdisasm')).parent}:{os.environ['PATH']}"  # cuobjdump starts nvdisasm
    result = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        **options,
    )  # type: ignore[call-overload]
    if result.returncode != 0:
        raise Failure(f"{command[0]}: {result.stderr.strip() or result.stdout.strip()}")
    return str(result.stdout)


def compile_source(source: str) -> Path:
    """Machine code of one .cu for every architecture, warnings as errors."""
    BUILD.mkdir(parents=True, exist_ok=True)
    target = BUILD / (source.replace("/", "__").removesuffix(".cu") + ".fatbin")
    may_be_double = any(fnmatch.fnmatch(Path(source).name, name) for name in DOUBLE_PRECISION)
    warnings = "-Werror" if may_be_double else "-warn-double-usage,-Werror"
    command = [str(cuda_toolkit.nvcc()), *cuda_toolkit.NVCC_FLAGS, "-fatbin", "--threads", "2"]
    command += ["-Werror", "all-warnings", "-Xptxas", warnings]
    for number in cuda_toolkit.ARCHITECTURES:
        command += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
    command += ["-MD", "-MF", str(target.with_suffix(".d")), source, "-o", str(target)]
    try:
        make(ROOT, target, command)
    except subprocess.CalledProcessError as error:
        raise Failure(f"{source}: nvcc gives warnings or errors") from error
    return target


def demangle(names: Sequence[str]) -> dict[str, str]:
    """Names without their parameters."""
    text = _run(["c++filt", *names]) if names else ""
    plain = [re.sub(r"^void ", "", line) for line in text.split("\n")]
    return {name: _without_parameters(line) for name, line in zip(names, plain, strict=False)}


def _without_parameters(name: str) -> str:
    depth = 0
    for i, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def resources(text: str) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(architecture, name) to registers, bytes of stack and of shared memory, of cuobjdump
    --dump-resource-usage.
    """
    found, architecture, name = {}, "", ""
    for line in text.split("\n"):
        if match := re.match(r"arch = sm_(\w+)", line.strip()):
            architecture = match[1]
        elif match := re.match(r"Function (\S+):", line.strip()):
            name = match[1]
        elif match := re.match(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line.strip()):
            found[architecture, name] = (int(match[1]), int(match[2]), int(match[3]))
    return found


def budget_of(kernel: str, budgets: Sequence[Budget] = BUDGETS) -> Budget:
    return next((b for b in budgets if re.fullmatch(b.kernel, kernel)), Budget(kernel))


def measure(fatbin: Path) -> tuple[list[Row], dict[str, list[sass.Loop]]]:
    """The table's rows for one file, and the loops of each by its key."""
    used = resources(_run([_tool("cuobjdump"), "--dump-resource-usage", str(fatbin)]))
    listed = list(sass.functions(_run([_tool("cuobjdump"), "-sass", str(fatbin)])))
    names = demangle(sorted({name for _, name, _ in listed}))
    rows, loops_of = [], {}
    for architecture, name, code in listed:
        loops = sass.innermost_loops(code)
        main = max(loops, key=lambda it: (it.wide_loads, it.instructions), default=sass.Loop(0))
        number = int(re.sub(r"\D", "", architecture))
        registers, stack, shared = used[architecture, name]
        if number >= 90:
            shared -= min(shared, RESERVED)
        narrow = sum(1 for loop in loops if loop.narrow_loads and not loop.wide_loads)
        wide = main.wide_loads
        row = Row(
            *(names[name], number, registers, stack, shared, 0),
            *(main.instructions if wide else 0, wide, narrow),
        )
        rows.append(row)
        loops_of[row.key] = loops
    return rows, loops_of


def set_occupancies(rows: Sequence[Row], budgets: Sequence[Budget]) -> None:
    """By NVIDIA's calculator, a header for the host."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "occupancy"
    command = ["g++", "-std=c++17", "-MMD", "-MF", str(program.with_suffix(".d"))]
    command += ["-isystem", str(cuda_toolkit.include()), "tools/cuda_occupancy.cpp"]
    make(ROOT, program, [*command, "-o", str(program)])
    asked = ""
    for row in rows:
        threads = budget_of(row.kernel, budgets).threads
        asked += f"{row.architecture} {row.registers} {row.shared_bytes} {threads}\n"
    for row, text in zip(rows, _run([str(program)], input=asked).split(), strict=True):
        row.occupancy = int(text)


def gate(row: Row, loops: Sequence[sass.Loop], budget: Budget) -> list[str]:
    """What is wrong with one kernel."""
    wrong = [
        f"{row.key}: a loop of 128-bit loads has narrower ones too: {loop.loads}"
        for loop in loops
        if loop.wide_loads and loop.narrow_loads
    ]
    wrong += [
        f"{row.key}: a loop of 128-bit loads has {loop.locals} accesses to local memory"
        for loop in loops
        if loop.wide_loads and loop.locals
    ]
    wrong += [
        f"{row.key}: a loop of 128-bit loads has {loop.doubles} instructions of double precision"
        for loop in loops
        if loop.wide_loads and loop.doubles and not budget.double_precision
    ]
    if row.stack_bytes > budget.stack_bytes:
        wrong.append(
            f"{row.key}: {row.stack_bytes} bytes of stack, for spilled registers or local arrays, "
            f"allowed are {budget.stack_bytes}"
        )
    if row.narrow_loops > budget.narrow_loops:
        wrong.append(
            f"{row.key}: {row.narrow_loops} loops load less than 128 bits at a time, "
            f"allowed are {budget.narrow_loops}"
        )
    limit = budget.instructions.get(row.architecture)
    if limit is not None and row.loop_loads == 0:
        wrong.append(f"{row.key}: no loop with 128-bit loads, but a budget for one")
    elif limit is not None:
        used = row.loop_instructions / (row.loop_loads * 16 / budget.element_bytes)
        if used > limit:
            wrong.append(f"{row.key}: {used:.1f} instructions an element, the budget is {limit}")
    return wrong


def compare(rows: Sequence[Row], accepted: dict[str, dict[str, int]]) -> list[str]:
    """Differences from the accepted table: for the better too, so that it is kept."""
    found = []
    now = {row.key: row for row in rows}
    for key in sorted({*now, *accepted}):
        if key not in accepted or key not in now:
            found.append(f"{key}: {'new' if key in now else 'gone'}")
            continue
        for name, before in accepted[key].items():
            after = getattr(now[key], name)
            if after != before:
                better = after > before if name == "occupancy" else after < before
                found.append(
                    f"{key}: {name} {before} -> {after} ({'better' if better else 'worse'})"
                )
    return found


def print_table(rows: Sequence[Row]) -> None:
    print(
        f"{'kernel':<48}{'sm':>4}{'regs':>6}{'stack':>7}{'shared':>8}{'occupancy':>11}{'loop':>6}{'loads':>7}{'narrow':>8}"
    )
    for row in rows:
        print(
            f"{row.kernel[:47]:<48}{row.architecture:>4}{row.registers:>6}{row.stack_bytes:>7}{row.shared_bytes:>8}"
            f"{row.occupancy:>9} %{row.loop_instructions:>7}{row.loop_loads:>7}{row.narrow_loops:>8}"
        )


def check(
    sources: Sequence[str], budgets: Sequence[Budget] = BUDGETS
) -> tuple[list[Row], list[str]]:
    """The table, and what is wrong with it."""
    rows: list[Row] = []
    wrong: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        for found, loops_of in pool.map(measure, list(map(compile_source, sources))):
            rows += found
            for row in found:
                wrong += gate(row, loops_of[row.key], budget_of(row.kernel, budgets))
    set_occupancies(rows, budgets)
    rows.sort(key=lambda row: (row.kernel, row.architecture))
    return rows, wrong


def _table_of(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    return {
        row.key: {k: v for k, v in asdict(row).items() if k not in ("kernel", "architecture")}
        for row in rows
    }


def nvcc_version() -> str:
    return re.search(r"V([\d.]+)", _run([str(cuda_toolkit.nvcc()), "--version"]))[1]  # type: ignore


def main() -> int:
    parser = argparse.ArgumentParser(description="Static checks of the CUDA kernels.")
    parser.add_argument(
        "--sources", action="append", metavar="PATH", help="a .cu or a folder of them"
    )
    parser.add_argument(
        "--accept", action="store_true", help="write the table that is compared with"
    )
    arguments = parser.parse_args()
    sources = []
    for name in arguments.sources or ["csrc/cuda"]:
        path = ROOT / name
        found = sorted(path.glob("*.cu")) if path.is_dir() else [path]
        sources += [os.path.relpath(item, ROOT) for item in found]
    try:
        rows, wrong = check(sources)
        version = nvcc_version()
    except (Failure, cuda_toolkit.ToolkitMissing) as error:
        print(f"cuda_static: {error}", file=sys.stderr)
        return 1
    print_table(rows)
    if arguments.accept:
        ACCEPTED.write_text(
            json.dumps({"nvcc": version, "kernels": _table_of(rows)}, indent=1) + "\n"
        )
    elif arguments.sources is None:
        accepted = (
            json.loads(ACCEPTED.read_text())
            if ACCEPTED.exists()
            else {"nvcc": version, "kernels": {}}
        )
        if accepted["nvcc"] == version:
            wrong += [f"{text} (--accept takes it)" for text in compare(rows, accepted["kernels"])]
        else:
            print(f"accepted with nvcc {accepted['nvcc']}, this is {version}: not compared")
    for text in wrong:
        print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
