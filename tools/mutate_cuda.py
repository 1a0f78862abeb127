"""Mutate the CUDA kernels, and see the simulated GPU's tests fail.

    python tools/mutate_cuda.py SUITE [--list] [--seed N] [--count N | --all] [--only TEXT]
                                [--part K/N]

A suite of SUITES names the sources and the tests. A mutant turns a sign, changes a constant, drops a
term, swaps a comparison, or takes away a barrier or fence. It is made in a copy of the tree under
build/mutate_cuda and run there: where order went, under the thread sanitizer without order between
blocks; else by numbers, if those are right under the address sanitizer, then through prefopt.torch.
--part 1/2 is the first of two runs that share the work. One that no test notices survives, is
printed with its line, and makes the exit code 1, unless EQUIVALENT says why it changes nothing. One
that does not compile proves nothing either way, and is counted apart.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_c import ROOT
from lint_c import blank_comments
from mutants import Mutant, Target, line_candidates

TREE = ROOT / "build" / "mutate_cuda" / "tree"  # of the first part
SECONDS_PER_MUTANT = 180  # a mutant that loops for ever counts as caught


@dataclass(frozen=True)
class Suite:
    """What is mutated, and the programs that must notice: arguments of tools/cuda_sim.py run."""

    sources: str
    name: str
    numbers: tuple[str, ...]
    bounds: tuple[str, ...]
    races: tuple[str, ...]
    slow: tuple[str, ...] = ()  # numbers once more, by what takes minutes


PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
SUITES = {
    "samples": Suite(
        "tests/cuda_sim/samples",
        "samples",
        ("source", "tests/cuda_sim/samples/main.cpp"),
        ("source-asan", "tests/cuda_sim/samples/main.cpp"),
        ("source-tsan-blocks", "tests/cuda_sim/samples/main.cpp", "small"),
    ),
    "library": Suite(
        "csrc/cuda",
        "prefopt_cudasim",
        ("source", *PYTEST, "tests/cuda"),
        ("source-asan", *PYTEST, "tests/cuda"),
        ("source-tsan-blocks", *PYTEST, "tests/cuda"),
        ("source", *PYTEST, "-m", "cuda_sim", "--ignore", "tests/cuda_sim", "tests"),
    ),
}

# (file name, stripped line, before, after): why the result is the same.
EQUIVALENT: dict[tuple[str, str, str, str], str] = {
    (
        "linear_token_logps_grad.cu",
        "s.lse = read_float(in.vectors[PFO_LINEAR_BY_LSE], place, 0.0);",
        "0.0",
        "(0.0 + 0.5)",
    ): "lse is never absent",
    (
        "linear_finish.cu",
        "for (int axis = 0; axis < first.ndim; axis++) {",
        "<",
        "<=",
    ): "an axis beyond the last is copied, and not read",
    (
        "linear_rows.cu",
        "if (row >= before) in.list[row] = {0, -1, ROW_NONE};",
        "-",
        "",
    ): "the label of a row that is none",
    (
        "loss.cu",
        "const int64_t elements = (batch.size + LOSS_THREADS - 1) / LOSS_THREADS;",
        " - 1",
        "",
    ): "one block more, which finds nothing to do",
    (
        "sequence_logps.cu",
        "const double given = read_float(in.normalizer, {0, sequence}, 1.0);",
        "1.0",
        "(1.0 + 0.5)",
    ): "normalizer is never absent there",
}

# Lines whose change is no change of a kernel's result: what a compiler reads, and launches.
SKIPPED = re.compile(
    r"^\s*(#|//|\*|/\*|using |static_assert|template )|__launch_bounds__|\bconfig\.|pfo_fail\("
)
ORDER = re.compile(r"__sync(?:threads|warp)\([^()]*\);|__threadfence\(\);")
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}


def candidates_of_line(line: str) -> Iterator[tuple[str, int, str, str]]:
    """(kind, column, before, after) of every change to one line."""
    # Dropped calls and turned comparisons are of losses; kernels have their own below.
    yield from (each for each in line_candidates(line) if each[0] not in ("call", "order"))
    for match in re.finditer(r"(?<=[\w)\]] )(<=|>=|==|!=|<|>)(?= [\w(-])", line):
        yield "compare", match.start(), match[0], COMPARISONS[match[0]]
    for match in ORDER.finditer(line):
        yield "order", match.start(), match[0], "/* gone */;"
    for match in re.finditer(r"\bf(max|min)f?\(", line):
        yield "extreme", match.start(1), match[1], "min" if match[1] == "max" else "max"


def targets(suite: Suite) -> list[Target]:
    """Every file of kernels: whole, as device and host code share their lines."""
    found = []
    for path in sorted((ROOT / suite.sources).glob("*.cu*")):
        relative = path.relative_to(ROOT).as_posix()
        lines = path.read_text(encoding="utf-8").count("\n")
        found.append(Target(path.name, relative, 1, lines, ()))
    return found


def candidates(target: Target) -> list[Mutant]:
    text = (ROOT / target.path).read_text(encoding="utf-8")
    raw, code = text.split("\n"), blank_comments(text).split("\n")
    found = []
    for number, line in enumerate(code, 1):
        if SKIPPED.search(line):
            continue
        for kind, column, before, after in candidates_of_line(line):
            known = (target.name, raw[number - 1].strip(), before, after)
            if raw[number - 1][column : column + len(before)] == before and known not in EQUIVALENT:
                found.append(Mutant(target, kind, number, column, before, after))
    return found


def choose(suite: Suite, seed: int, count: int | None, only: str) -> list[Mutant]:
    """Every mutant, or a sample of `count` that has each kind."""
    found = [m for t in targets(suite) for m in candidates(t) if only in str(m)]
    if count is None or count >= len(found):
        return found
    generator = random.Random(seed)
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in found:
        by_kind.setdefault(mutant.kind, []).append(mutant)
    queues = [generator.sample(group, len(group)) for _, group in sorted(by_kind.items())]
    chosen: list[Mutant] = []
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return chosen


def copy_if_changed(source: str, target: str) -> str:
    """Contents that differ get a time of their own, so that what was built from a mutant is old."""
    if not os.path.exists(target) or not filecmp.cmp(source, target, shallow=False):
        shutil.copyfile(source, target)
    return target


def prepare() -> None:
    """Copy what the simulation is built from and tested with, the built package included."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("csrc", "tools", "prefopt", "tests"):
        shutil.copytree(
            *(ROOT / name, TREE / name),
            dirs_exist_ok=True,
            ignore=ignored,
            copy_function=copy_if_changed,
        )
    copy_if_changed(str(ROOT / "pyproject.toml"), str(TREE / "pyproject.toml"))


class NotCompiled(Exception):
    """A mutant that is no program, such as a vector of one element."""


def passes(suite: Suite, how: tuple[str, ...], *, is_mutant: bool = True) -> bool:
    """Whether one program passes on the copy; the unchanged one has time, and says what is wrong."""
    simulate = [sys.executable, "tools/cuda_sim.py"]
    common = ["--sources", suite.sources, "--name", suite.name]
    variant, *program = how
    environment = os.environ | {"PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1"}
    output = subprocess.DEVNULL if is_mutant else None

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        # In a session of its own: a program that loops for ever is ended with what started it.
        return subprocess.Popen(
            [*simulate, *arguments],
            cwd=TREE,
            env=environment,
            start_new_session=True,
            stdout=output,
            stderr=output,
        )

    if start("build", *common, variant).wait() != 0:
        raise NotCompiled
    running = start("run", *common, variant, *program)
    try:
        return running.wait(SECONDS_PER_MUTANT if is_mutant else None) == 0
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        return False


def runs_of(suite: Suite, kind: str) -> list[tuple[str, ...]]:
    if kind == "order":
        return [suite.races]
    return [run for run in (suite.numbers, suite.bounds, suite.slow) if run]


def outcome(suite: Suite, mutant: Mutant) -> str:
    """One of: killed, survived, not compiled."""
    path = TREE / mutant.target.path
    original = path.read_text(encoding="utf-8")
    lines = original.split("\n")
    line = lines[mutant.line - 1]
    end = mutant.column + len(mutant.before)
    lines[mutant.line - 1] = line[: mutant.column] + mutant.after + line[end:]
    path.write_text("\n".join(lines), encoding="utf-8")
    try:
        survived = all(passes(suite, how) for how in runs_of(suite, mutant.kind))
        return "survived" if survived else "killed"
    except NotCompiled:
        return "not compiled"
    finally:
        path.write_text(original, encoding="utf-8")


def main() -> int:
    global TREE
    parser = argparse.ArgumentParser(description="Mutation testing of the CUDA kernels.")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--list", action="store_true", help="list the mutants, run nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=30, help="size of the sample (30)")
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--only", default="", help="mutants whose description holds this text")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="the Kth of N shares")
    arguments = parser.parse_args()
    suite = SUITES[arguments.suite]
    count = None if arguments.all else arguments.count
    part, parts = map(int, arguments.part.split("/"))
    # Files' mutants stay together as far as they can: a file that is put back is built once more.
    mutants = sorted(
        choose(suite, arguments.seed, count, arguments.only), key=lambda mutant: mutant.target.path
    )
    mutants = mutants[len(mutants) * (part - 1) // parts : len(mutants) * part // parts]
    if part > 1:
        TREE = TREE.with_name(f"tree-{part}")
    if arguments.list:
        print("\n".join(map(str, mutants)))
        return 0
    begin = time.perf_counter()
    prepare()
    for how in {how for mutant in mutants for how in runs_of(suite, mutant.kind)}:
        with contextlib.suppress(NotCompiled):
            if passes(suite, how, is_mutant=False):
                continue
        print(f"mutate_cuda: the unchanged tree fails {' '.join(how)}")
        return 1
    outcomes: Counter[str] = Counter()
    for mutant in mutants:
        result = outcome(suite, mutant)
        outcomes[result] += 1
        if result != "killed":
            print(f"{result:<13}{mutant}", flush=True)
    seconds = time.perf_counter() - begin
    counts = ", ".join(f"{count} {result}" for result, count in sorted(outcomes.items()))
    print(f"{len(mutants)} mutants: {counts}; {seconds:.0f} s")
    return 1 if outcomes["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
