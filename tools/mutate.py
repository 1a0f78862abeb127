"""Mutate every loss row and every kernel, and see the tests fail.

    python tools/mutate.py [--list] [--seed N] [--kinds | --all] [--only TEXT] [--part K/N]

For each row of the loss list one mutant of each kind that its text allows: a sign turned, a
constant changed, a term or a call dropped; for each kernel and each function that losses share,
one. The choice is made by the seed, so a run can be repeated; --kinds takes one of each kind
everywhere, --all every candidate (tools/mutants.py). --part 1/2 is the first of two runs that share
the work. A copy of the tree under build/mutate is changed, rebuilt as far as it must be, and tested:
kernels by their tests, losses by the golden values. A row's formula is no other row's, so one build
holds a mutant of each row, and the values of every row must be off. A mutant that nothing notices
survives, is printed with its line, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_c import ROOT, build_extension
from mutants import Mutant, choose, kernel_targets, loss_targets

FOLDER = ROOT / "build" / "mutate"
TREE, OBJECTS = FOLDER / "tree", FOLDER / "objects"
SECONDS_UNCHANGED = 900
SECONDS_PER_MUTANT = 240  # a mutant that loops for ever counts as caught

# Prints the rows whose golden values are off.
GOLDEN_CHECK = """
import json
from prefopt._check import check_losses
failed = {case.group.removeprefix("loss ") for case in check_losses() if not case.passed}
print(json.dumps(sorted(failed)))
"""


def use_folder(folder: Path) -> None:
    """Work under `folder`, beside another run."""
    global TREE, OBJECTS
    TREE, OBJECTS = folder / "tree", folder / "objects"


def prepare() -> None:
    """Copy what a build and the tests need, and build it unchanged."""
    TREE.mkdir(parents=True, exist_ok=True)
    for name in ("csrc", "prefopt", "tests"):
        shutil.copytree(
            ROOT / name,
            TREE / name,
            dirs_exist_ok=True,
            copy_function=copy_changed,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )
    shutil.copy2(ROOT / "pyproject.toml", TREE)
    build_extension(TREE, OBJECTS)


def copy_changed(source: str, target: str) -> None:
    """Copies a file that differs, as of now: a build must see that it changed."""
    if not os.path.exists(target) or Path(source).read_bytes() != Path(target).read_bytes():
        shutil.copy(source, target)


def run(command: list[str], seconds: int) -> subprocess.CompletedProcess[str] | None:
    """The command in the tree; None if it took too long."""
    environment = os.environ | {"PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(
            [sys.executable, *command],
            cwd=TREE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return None


def run_tests(tests: tuple[str, ...], seconds: int = SECONDS_PER_MUTANT) -> bool:
    """True if the tests pass."""
    command = ["-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    done = run(command, seconds)
    return done is not None and done.returncode == 0


def failing_rows() -> set[str] | None:
    """The rows whose golden values are off; None if the check did not come to its end."""
    done = run(["-c", GOLDEN_CHECK], SECONDS_PER_MUTANT)
    return set(json.loads(done.stdout)) if done is not None and done.returncode == 0 else None


class Changed:
    """The tree with some mutants applied, until the end of the block."""

    def __init__(self, mutants: Sequence[Mutant]) -> None:
        self.mutants = mutants
        self.originals: dict[Path, str] = {}

    def __enter__(self) -> None:
        for mutant in self.mutants:
            path = TREE / mutant.target.path
            text = path.read_text(encoding="utf-8")
            self.originals.setdefault(path, text)
            lines = text.split("\n")
            line = lines[mutant.line - 1]
            end = mutant.column + len(mutant.before)
            lines[mutant.line - 1] = line[: mutant.column] + mutant.after + line[end:]
            path.write_text("\n".join(lines), encoding="utf-8")
        try:
            build_extension(TREE, OBJECTS)
        except subprocess.CalledProcessError:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        for path, text in self.originals.items():
            path.write_text(text, encoding="utf-8")


def survives(mutant: Mutant) -> bool:
    """Whether nothing notices the mutant. One that does not compile is an error of this script."""
    with Changed([mutant]):
        if mutant.target.tests:
            return run_tests(mutant.target.tests)
        rows = failing_rows()
        return rows is not None and (
            mutant.target.row not in rows if mutant.target.row else not rows
        )


def rounds(mutants: Sequence[Mutant]) -> list[list[Mutant]]:
    """The mutants of rows' own formulas, at most one a row in each round."""
    left = [mutant for mutant in mutants if mutant.target.row]
    found = []
    while left:
        taken = {mutant.target.row: mutant for mutant in reversed(left)}
        found.append(list(taken.values()))
        left = [mutant for mutant in left if mutant is not taken[mutant.target.row]]
    return found


def surviving(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Those that nothing notices, printed as they are found."""
    found = []
    alone = [mutant for mutant in mutants if not mutant.target.row]
    for group in rounds(mutants):
        with Changed(group):
            rows = failing_rows()
        if rows is None:  # one of them ends the process: which one?
            alone += group
            continue
        found += [mutant for mutant in group if mutant.target.row not in rows]
    for mutant in found:
        print(f"SURVIVED {mutant}", flush=True)
    for mutant in alone:
        if survives(mutant):
            found.append(mutant)
            print(f"SURVIVED {mutant}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutate losses and kernels; tests must notice.")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--seed", type=int, default=1)
    amounts = parser.add_mutually_exclusive_group()
    amounts.add_argument("--kinds", action="store_true", help="one mutant of each kind everywhere")
    amounts.add_argument("--all", action="store_true", help="every candidate")
    parser.add_argument("--only", default="", help="targets whose name holds this text")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="this share of the mutants")
    arguments = parser.parse_args()
    amount = "all" if arguments.all else "kinds" if arguments.kinds else "one"
    part, parts = map(int, arguments.part.split("/"))
    if not 1 <= part <= parts:
        parser.error(f"--part: expected K/N with 1 <= K <= N, got {arguments.part}")
    targets = [t for t in (*loss_targets(), *kernel_targets()) if arguments.only in t.name]
    mutants = choose(targets, arguments.seed, amount)[part - 1 :: parts]
    if arguments.list:
        print("\n".join(map(str, mutants)))
        return 0
    begin = time.perf_counter()
    if parts > 1:
        use_folder(FOLDER / f"part-{part}")
    prepare()
    if failing_rows() != set():
        print("mutate: the golden values of the unchanged tree are off")
        return 1
    for tests in sorted({mutant.target.tests for mutant in mutants} - {()})[part - 1 :: parts]:
        if not run_tests(tests, SECONDS_UNCHANGED):
            print(f"mutate: the unchanged tree fails {' '.join(tests)}")
            return 1
    survivors = surviving(mutants)
    seconds = time.perf_counter() - begin
    print(
        f"{len(mutants)} mutants of {len({mutant.target for mutant in mutants})} targets, "
        f"{len(survivors)} survived, {seconds:.0f} s"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
