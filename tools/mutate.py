"""Mutate every loss row and every kernel, and see the tests fail.

    python tools/mutate.py [--list] [--seed N] [--all] [--only TEXT]

For each row of the loss list, each kernel and each shared formula, one mutant of each kind that its
text allows: a sign turned, a constant changed, a term dropped. The choice is made by the seed, so a
run can be repeated; --all tries every candidate. A copy of the tree under build/mutate is changed,
rebuilt as far as it must be, and tested with -x by the tests named in TARGETS. A mutant that no
test notices survives, is printed with its line, and makes the exit code 1.

A mutant that changes no result (a block size, a prefetch) proves nothing, so such lines are
skipped: see SKIPPED.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_c import ROOT, build_extension
from lint_c import blank_comments

TREE = ROOT / "build" / "mutate" / "tree"
OBJECTS = ROOT / "build" / "mutate" / "objects"
SECONDS_PER_MUTANT = 120  # a mutant that loops for ever counts as caught

KERNEL_TESTS = (
    "tests/test_token_logps_grad.py",
    "tests/test_vmath.py",
    "tests/test_row_state.py",
    "tests/test_token_logps.py",
    "tests/test_token_logps_accuracy.py",
)
PAIR_TESTS = ("tests/test_pair_token_stats.py",)
LINEAR_TESTS = ("tests/test_linear_token_logps.py", "tests/test_linear_token_logps_grad.py")
TESTS_OF = {  # by how the kernel's file begins
    "pair_": PAIR_TESTS,
    "gemm": LINEAR_TESTS,
    "linear_": LINEAR_TESTS,
    "widen_": LINEAR_TESTS,
}
LOSS_TESTS = ("tests/test_loss_gradients.py", "tests/test_loss_values.py")

# Lines whose change cannot change a result.
SKIPPED = re.compile(
    r"PREFETCH"  # speed only
    r"|PFO_BLOCK|PFO_FOLD_VALUES|PFO_SEGMENT|PFO_SERIAL"  # where sums are cut: equal in budget
    r"|\bfor \(|\bwhile \("  # loop bounds: crashes and hangs, not formulas
    r"|^\s*(#|//|\*|static const|typedef|_Static_assert)"
    r"|\(void\)"
    r"|best = -1"  # of a fresh state: only C can see it, and tests/c/test_row_state.c does
    r"|1\.0 \+ poison|total = 0\.0, poison"  # beside an infinite maximum only NaN or not counts
    r"|inv_temperature == 1\.0|->b == 0\.0"  # picks a shortcut whose result is the same
)


@dataclass(frozen=True)
class Target:
    """A piece of source that must not change unnoticed."""

    name: str
    path: str
    first: int  # lines, from 1
    last: int
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Mutant:
    target: Target
    kind: str
    line: int
    column: int
    before: str
    after: str

    def __str__(self) -> str:
        place = f"{self.target.path}:{self.line}"
        return f"{self.target.name:<28}{self.kind:<9}{place}: {self.before!r} -> {self.after!r}"


def bodies(path: Path, pattern: str) -> Iterator[tuple[str, int, int]]:
    """(name, first line, last line) of each function whose head line matches pattern (group 1)."""
    lines = blank_comments(path.read_text(encoding="utf-8")).split("\n")
    for number, line in enumerate(lines, 1):
        match = re.search(pattern, line)
        if not match or line.startswith((" ", "#")) or line.rstrip().endswith(";"):
            continue
        if "{" in line and line.rstrip().endswith("}"):
            yield match.group(1), number, number
            continue
        last = next((i for i in range(number, len(lines) + 1) if lines[i - 1] == "}"), None)
        if last is not None:
            yield match.group(1), number, last


def loss_targets() -> Iterator[Target]:
    """One target a row of loss_list.h; then the functions that rows share."""
    rows = re.findall(
        r"^LOSS\((\w+),\s*(\w+),", (ROOT / "csrc/losses/loss_list.h").read_text(), re.MULTILINE
    )
    texts = sorted((ROOT / "csrc/losses").glob("*.inc"))
    for family, variant in rows:
        found = [
            Target(
                f"{family}.{variant}", text.relative_to(ROOT).as_posix(), first, last, LOSS_TESTS
            )
            for text in texts
            for _, first, last in bodies(text, rf"\((({family})_{variant})\)")
        ]
        if len(found) != 1:
            raise SystemExit(f"mutate: {len(found)} formulas found for loss {family}.{variant}")
        yield found[0]
    shared = ROOT / "csrc/losses/scalar.inc"
    for name, first, last in bodies(shared, r"PFO_FN\((\w+)\)\("):
        yield Target(f"loss {name}", "csrc/losses/scalar.inc", first, last, LOSS_TESTS)
    for name, first, last in bodies(
        ROOT / "csrc/losses/batch.inc", r"\b((?:gather|scatter|nll)_\w+)\("
    ):
        yield Target(f"loss {name}", "csrc/losses/batch.inc", first, last, LOSS_TESTS)


def kernel_targets() -> Iterator[Target]:
    """Every function of the kernels, of the vector exp, and of the row state."""
    for path in sorted((ROOT / "csrc/kernels").glob("*.inc")):
        if path.name in ("kernels.inc", "dtype_kernels.inc", "vmath.inc"):
            continue  # the tables, and a loop around simd/vmath.h
        relative = path.relative_to(ROOT).as_posix()
        tests = next(
            (t for stem, t in TESTS_OF.items() if path.name.startswith(stem)), KERNEL_TESTS
        )
        for name, first, last in bodies(path, r"\bK\((\w+)\)\("):
            yield Target(f"kernel {name}", relative, first, last, tests)
    for relative, pattern, tests in (
        ("csrc/simd/vmath.h", r"\b(v[fd]_\w+)\(", KERNEL_TESTS),
        ("csrc/core/row_state.c", r"\b(\w+)\(", KERNEL_TESTS),
        ("csrc/core/pair_state.c", r"\b(\w+)\(", PAIR_TESTS),
    ):
        for name, first, last in bodies(ROOT / relative, pattern):
            yield Target(name, relative, first, last, tests)


def line_candidates(line: str) -> Iterator[tuple[str, int, str, str]]:
    """(kind, column, before, after) of every change to one line of code."""
    for match in re.finditer(r"(?<=[\w)\]]) ([+-]) (?=[\w(])", line):
        yield "sign", match.start(1), match[1], "-" if match[1] == "+" else "+"
    for match in re.finditer(r"(?<=[(=,?:] )-(?=[\w(])|(?<=[(])-(?=[\w(])", line):
        yield "sign", match.start(), "-", ""
    for match in re.finditer(r"V\((add|sub)\)", line):
        yield "sign", match.start(1), match[1], "sub" if match[1] == "add" else "add"
    for match in re.finditer(r"\bv[fd]_(add|sub)\(", line):
        yield "sign", match.start(1), match[1], "sub" if match[1] == "add" else "add"
    for match in re.finditer(r"(?<![\w.\[])(\d+\.\d*|0x1\.[0-9a-f]+p[+-]?\d+)(?![\w.])f?", line):
        changed = repr(float.fromhex(match[1]) * 1.01) if "x" in match[1] else f"({match[1]} + 0.5)"
        yield "constant", match.start(1), match[1], changed
    for match in re.finditer(r"(?<=[-+*/(] )([12])(?= [-+*/])|(?<=[(])([12])(?= [-+*/])", line):
        yield "constant", match.start(), match[0], "3"
    for match in re.finditer(r" ([+*-]) ([\w>.\-]+(?:\([^()]*\))?)(?=[;),]| [-+*/?])", line):
        yield "term", match.start(), match[0], ""
    for match in re.finditer(r"V\(fma\)\((\w+), (\w+), (\w+)\)", line):
        yield "term", match.start(), match[0], f"V(mul)({match[1]}, {match[2]})"
    for match in re.finditer(r"\bv([fd])_fma\((\w+), (\w+), (\w+)\)", line):
        yield "term", match.start(), match[0], f"v{match[1]}_mul({match[2]}, {match[3]})"


def candidates(target: Target) -> list[Mutant]:
    """Every mutant of the target."""
    text = (ROOT / target.path).read_text(encoding="utf-8")
    raw, code = text.split("\n"), blank_comments(text).split("\n")
    found = []
    one_line = target.first == target.last
    for number in range(target.first + (not one_line), target.last + 1):
        line = code[number - 1]
        # The skip rules read the code, with the body of a one-line function for its whole.
        if SKIPPED.search(line) and not (one_line and "(void)" not in line):
            continue
        start = line.index("{") if one_line else 0
        for kind, column, before, after in line_candidates(line):
            if column > start and raw[number - 1][column : column + len(before)] == before:
                found.append(Mutant(target, kind, number, column, before, after))
    return found


def choose(targets: list[Target], seed: int, every: bool) -> list[Mutant]:
    """One mutant of each kind for each target, or every one."""
    chosen = []
    for target in targets:
        found = candidates(target)
        if every:
            chosen += found
            continue
        # Seeded by the target's name too: a new row does not change the choice for the others.
        generator = random.Random(f"{seed} {target.name}")
        for kind in ("sign", "constant", "term"):
            of_kind = [mutant for mutant in found if mutant.kind == kind]
            if of_kind:
                chosen.append(generator.choice(of_kind))
    return chosen


def prepare() -> None:
    """Copy what a build and the tests need, and build it unchanged."""
    TREE.mkdir(parents=True, exist_ok=True)
    for name in ("csrc", "prefopt", "tests"):
        shutil.copytree(
            ROOT / name,
            TREE / name,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )
    shutil.copy2(ROOT / "pyproject.toml", TREE)
    build_extension(TREE, OBJECTS)


def run_tests(tests: tuple[str, ...]) -> bool:
    """True if the tests pass."""
    environment = os.environ | {"PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    try:
        return (
            subprocess.run(
                [*command, *tests],
                cwd=TREE,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS_PER_MUTANT,
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


def survives(mutant: Mutant) -> bool:
    """Apply, build, test, restore. A mutant that does not compile is an error of this script."""
    path = TREE / mutant.target.path
    original = path.read_text(encoding="utf-8")
    lines = original.split("\n")
    line = lines[mutant.line - 1]
    end = mutant.column + len(mutant.before)
    lines[mutant.line - 1] = line[: mutant.column] + mutant.after + line[end:]
    try:
        path.write_text("\n".join(lines), encoding="utf-8")
        build_extension(TREE, OBJECTS)
        return run_tests(mutant.target.tests)
    finally:
        path.write_text(original, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutate losses and kernels; tests must notice.")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="every candidate, not one of a kind")
    parser.add_argument("--only", default="", help="targets whose name holds this text")
    arguments = parser.parse_args()
    targets = [t for t in (*loss_targets(), *kernel_targets()) if arguments.only in t.name]
    mutants = choose(targets, arguments.seed, arguments.all)
    if arguments.list:
        print("\n".join(map(str, mutants)))
        return 0
    begin = time.perf_counter()
    prepare()
    for tests in {target.tests for target in targets}:
        if not run_tests(tests):
            print(f"mutate: the unchanged tree fails {' '.join(tests)}")
            return 1
    survivors = []
    for mutant in mutants:
        if survives(mutant):
            survivors.append(mutant)
            print(f"SURVIVED {mutant}", flush=True)
    seconds = time.perf_counter() - begin
    print(
        f"{len(mutants)} mutants of {len(targets)} targets, {len(survivors)} survived, {seconds:.0f} s"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
