"""What tools/mutate.py changes: the pieces of source, and the mutants that their text allows.

A mutant that changes no result (a block size, a prefetch) proves nothing, so such lines are
skipped: see SKIPPED.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_c import ROOT
from lint_c import blank_comments

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
LOSSES = ROOT / "csrc" / "losses"
FORMULA_OF = {"rso_accept": "accept_candidates"}  # whose program only calls it
KINDS = ("sign", "constant", "term", "call", "order")

# Lines whose change cannot change a result.
SKIPPED = re.compile(
    r"PREFETCH"  # speed only
    r"|PFO_BLOCK|PFO_FOLD_VALUES|PFO_SEGMENT|PFO_SERIAL"  # where sums are cut: equal in budget
    r"|^\s*(#|//|\*|static const|typedef|_Static_assert)"
    r"|\(void\)|pfo_fail\(|PFO_BAD\("
    r"|PFO_BARRIER"  # of a GPU's threads, nothing on a CPU: tests/cuda_sim
    r"|clear_terms|memset\(terms"  # a fresh stack is often 0 already
    r"|t \+ batch->width"  # of positions that are NaN, which sorts last, and are not taken
    r"|load_part\)\(x \+ i"  # reads beyond what is used: the sanitizers' to find
    r"|const double scaled"  # the other half makes up for it, less exactly
    r"|gaps\[i\] - mean"  # sum (g - m)(g + m) = sum (g - m)^2
    r"|const double \*|work->\w+ = |size_t |malloc\(|\+ i \* \w+\)|spread_sampled\(batch"  # addresses
    r"|nan_a - nan_b"  # golden values hold no NaN
    r"|ratio >= -1\)|-0\.693"  # picks one of two forms of the same number
    r"|best = -1"  # of a fresh state: only C can see it, and tests/c/test_row_state.c does
    r"|1\.0 \+ poison|total = 0\.0, poison"  # beside an infinite maximum only NaN or not counts
    r"|inv_temperature == 1\.0|->[bc] == 0\.0"  # picks a shortcut whose result is the same
)
LOOP = re.compile(r"\bfor \(|\bwhile \(")  # a changed bound crashes or hangs, and is no formula


@dataclass(frozen=True)
class Target:
    """A piece of source that must not change unnoticed."""

    name: str
    path: str
    first: int  # lines, from 1
    last: int
    tests: tuple[str, ...] = ()  # none: the golden values
    row: str = ""  # the loss whose own formula this is, "" for what losses share


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
        is_continued = number > 1 and lines[number - 2].startswith("PFO_HD static inline")
        is_head = not line.startswith((" ", "#")) or (
            is_continued and line.startswith("    PFO_FN")
        )
        if not match or not is_head or line.rstrip().endswith(";"):
            continue
        if "{" in line and line.rstrip().endswith("}"):
            yield match.group(1), number, number
            continue
        last = next((i for i in range(number, len(lines) + 1) if lines[i - 1] == "}"), None)
        if last is not None:
            yield match.group(1), number, last


def loss_rows() -> list[tuple[str, str, str]]:
    """(family, variant, program) of every row of the loss list."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(LOSSES.glob("rows_*.h")))
    return re.findall(r"^LOSS\((\w+), (\w+), \w+, \w+, (\w+),", text, re.MULTILINE)


def _functions(pattern: str, paths: Iterator[Path]) -> Iterator[tuple[str, str, int, int]]:
    for path in sorted(paths):
        for name, first, last in bodies(path, pattern):
            yield name, path.relative_to(ROOT).as_posix(), first, last


def loss_targets() -> Iterator[Target]:
    """One target a row of the loss list; then the functions that rows share.

    The formula of a row is the function family_variant; of a procedure over a batch, which has none,
    the function run_PROGRAM.
    """
    formulas = {f[0]: f for f in _functions(r"PFO_FORMULA\((\w+)\)", LOSSES.glob("*.inc"))}
    static = r"^(?:static|PFO_STEP|PFO_HELPER) (?!const)[^=;]*?\b(\w+)\((?=[^)]*\b\w)"
    programs = {f[0]: f for f in _functions(static, LOSSES.glob("programs*.inc"))}
    own = set()
    for family, variant, program in loss_rows():
        name = (
            f"{family}_{variant}" if f"{family}_{variant}" in formulas else f"run_{program.lower()}"
        )
        name = FORMULA_OF.get(f"{family}_{variant}", name)
        found = formulas.get(name) or programs.get(name)
        if found is None:
            raise SystemExit(f"mutate: no formula found for loss {family}.{variant}")
        own.add(name)
        yield Target(f"{family}.{variant}", *found[1:], row=f"{family}.{variant}")
    helpers = _functions(r"^(?!PFO_FORMULA).*?PFO_FN\((\w+)\)\(", LOSSES.glob("*.inc"))
    for name, *place in (*helpers, *programs.values()):
        # Checks refuse bad arguments, which golden values have none of; their tests are others.
        if name not in own and not name.startswith(
            ("check_", "validate_", "loss_terms_of", "run_program", "clear_terms")
        ):
            yield Target(f"loss {name}", *place)


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
    for match in re.finditer(r"(?<=out->value = )(?!0 - )(?=[\w(])", line):
        yield "sign", match.start(), "", "-"
    for match in re.finditer(r"(?:(?<=^ {4})|(?<=\{ ))((?:PFO_|[a-z])[\w()]*\([^;=]*\);)", line):
        if not match[1].startswith(("free(", "return", "if (", "PFO_NO_FORMULA")):
            yield "call", match.start(), match[1], ";"
    for match in re.finditer(r"(?<=[\w)\]]) ([<>]) (?=[\w(][^;]*\?)", line):
        yield "order", match.start(1), match[1], ">" if match[1] == "<" else "<"
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


def after_header(line: str) -> int:
    """The column where the header of the loop in this line ends."""
    depth = 0
    for column in range(LOOP.search(line).end() - 1, len(line)):
        depth += (line[column] == "(") - (line[column] == ")")
        if depth == 0:
            return column
    return len(line)


def candidates(target: Target) -> list[Mutant]:
    """Every mutant of the target; of one that has loops in one line only, those of their bodies."""
    return _candidates(target, loops=False) or _candidates(target, loops=True)


def _candidates(target: Target, loops: bool) -> list[Mutant]:
    text = (ROOT / target.path).read_text(encoding="utf-8")
    raw, code = text.split("\n"), blank_comments(text).split("\n")
    found = []
    one_line = target.first == target.last
    for number in range(target.first + (not one_line), target.last + 1):
        line = code[number - 1]
        # The skip rules read the code, with the body of a one-line function for its whole.
        skipped = SKIPPED.search(line) or (LOOP.search(line) and not loops)
        if skipped and not (one_line and "(void)" not in line):
            continue
        start = line.index("{") if one_line else after_header(line) if LOOP.search(line) else 0
        for kind, column, before, after in line_candidates(line):
            if target.tests and kind in ("call", "order"):
                continue  # of losses only: kernels are shaped by speed, not by formulas
            if column > start and raw[number - 1][column : column + len(before)] == before:
                found.append(Mutant(target, kind, number, column, before, after))
    return found


def choose(targets: list[Target], seed: int, amount: str = "one") -> list[Mutant]:
    """One mutant of each kind for a row, and one for a kernel or what losses share; "kinds": one of
    each kind for these too; "all": every candidate.
    """
    chosen = []
    for target in targets:
        found = candidates(target)
        if amount == "all":
            chosen += found
            continue
        # Seeded by the target's name too: a new row does not change the choice for the others.
        generator = random.Random(f"{seed} {target.name}")
        of_kinds = [[mutant for mutant in found if mutant.kind == kind] for kind in KINDS]
        picked = [generator.choice(mutants) for mutants in of_kinds if mutants]
        # Rows are mutated many at a time; anything else costs a build and a test run each.
        is_one = amount == "one" and not target.row
        chosen += [generator.choice(picked)] if is_one and picked else picked
    return chosen
