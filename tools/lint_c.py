"""Small lint of the C sources: the rules of the house that no compiler checks.

    python tools/lint_c.py [ROOT]

Prints ``path:line: rule`` for each breach; exit code 1 if there is one. Rules: a file has at most
400 lines, a function at most 60, a line at most 120 columns; OpenMP stays in csrc/core, Python and
NumPy headers in csrc/python; kernels neither allocate nor print; no fast-math anywhere, the build
included; no names that tell history (_v2, _new, _old, ...).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_COLUMNS = 120
SOURCES = ("csrc", "tests/c", "tests/simde")
OTHERS = "third_party"  # a folder of files kept as their authors wrote them
SUFFIXES = (".c", ".h", ".inc", ".cu", ".cuh")
BUILD_FILES = ("setup.py", "pyproject.toml", "justfile", "tools/build_c.py", ".ci/run")

OPENMP = re.compile(
    r'#\s*pragma\s+omp\b|_Pragma\s*\(\s*"omp|#\s*include\s*<omp\.h>|\bomp_[a-z_]+\s*\('
)
PYTHON = re.compile(r'#\s*include\s*[<"](Python\.h|numpy/)')
FAST_MATH = re.compile(
    r"ffast-math|Ofast|funsafe-math|ffinite-math|fassociative-math|fp:fast|FAST_MATH\s+1"
)
STALE = re.compile(r"\b\w+_(v[2-9]|new|old|tmp2|final|fixed|copy2|orig|backup)\b")
ALLOCATES = re.compile(r"\b(malloc|calloc|realloc|free|printf|fprintf|abort)\s*\(")
COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def blank_comments(text: str) -> str:
    """Return text with comments and strings blanked and line breaks kept."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    return COMMENT_OR_STRING.sub(blank, text)


def function_lengths(code: str) -> Iterator[tuple[int, int]]:
    """Yield (line of the brace, lines) of each body: a `{` that ends a top-level line up to a lone
    `}`.
    """
    start = None
    for number, line in enumerate(code.split("\n"), 1):
        if start is None and line.rstrip().endswith("{") and line[:1] not in (" ", "#", "}"):
            start = number
        elif line.rstrip() in ("}", "};") or re.match(r"} \w+;", line):
            if start is not None and line.rstrip() == "}":
                yield start, number - start + 1
            start = None


def check_source(path: Path, relative: str) -> Iterator[tuple[int, str]]:
    """Yield (line, rule) for each breach in one C source."""
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    code = blank_comments(text)
    if len(lines) - 1 > MAX_FILE_LINES:
        yield len(lines) - 1, f"file has {len(lines) - 1} lines, the limit is {MAX_FILE_LINES}"
    for start, length in function_lengths(code):
        if length > MAX_FUNCTION_LINES:
            yield start, f"function has {length} lines, the limit is {MAX_FUNCTION_LINES}"
    in_core = relative.startswith("csrc/core/")
    in_python = relative.startswith("csrc/python/")
    in_kernel = relative.startswith(("csrc/kernels/", "csrc/simd/"))
    # Directives keep their strings (#include "..."), so the header rules read the raw lines.
    for number, (raw, line) in enumerate(zip(lines, code.split("\n"), strict=True), 1):
        if len(raw) > MAX_COLUMNS:
            yield number, f"line has {len(raw)} columns, the limit is {MAX_COLUMNS}"
        if "\t" in raw or raw != raw.rstrip():
            yield number, "tab or trailing white space"
        if not in_core and not relative.startswith("tests/") and OPENMP.search(line):
            yield number, "OpenMP outside csrc/core"
        if not in_python and PYTHON.search(raw):
            yield number, "Python or NumPy header outside csrc/python"
        if in_kernel and ALLOCATES.search(line):
            yield number, "a kernel neither allocates nor prints"
        if match := STALE.search(line):
            yield number, f"name tells history: {match.group()}"
        if FAST_MATH.search(line):
            yield number, "fast-math"


def check_tree(root: Path) -> list[str]:
    """Return one message for each breach under root."""
    messages = []
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file() or OTHERS in path.parts:
                continue
            relative = path.relative_to(root).as_posix()
            if STALE.search(path.stem):
                messages.append(f"{relative}:1: file name tells history")
            messages += [
                f"{relative}:{line}: {rule}" for line, rule in check_source(path, relative)
            ]
    for name in BUILD_FILES:
        path = root / name
        if path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
                if FAST_MATH.search(line) and "no-fast-math" not in line:
                    messages.append(f"{name}:{number}: fast-math in the build")
    return messages


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    messages = check_tree(root)
    for message in messages:
        print(message)
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
