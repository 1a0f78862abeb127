"""The C lint finds what it should, the sources pass it, and lists that must agree do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import prefopt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

lint_c = pytest.importorskip("lint_c", reason="tools/ is not beside the tests")
mutants = pytest.importorskip("mutants")


def test_sources_pass() -> None:
    assert lint_c.check_tree(ROOT) == []


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("csrc/ops/a.c", "#pragma omp parallel\n", "OpenMP"),
        ("csrc/ops/a.c", "#include <omp.h>\n", "OpenMP"),
        ("csrc/ops/a.c", "#include <Python.h>\n", "Python"),
        ("csrc/kernels/a.inc", "x = malloc(4);\n", "kernel"),
        ("csrc/ops/a.c", "int fold_v2;\n", "history"),
        ("csrc/ops/a.c", "x" * 121 + "\n", "columns"),
        ("csrc/ops/a.c", "int a; \n", "white space"),
        ("csrc/ops/a.c", "int a;\n" * 401, "401 lines"),
        ("csrc/ops/a.c", "int f(void)\n{\n" + "    g();\n" * 59 + "}\n", "function has 61 lines"),
        ("setup.py", "flags = ['-ffast-math']\n", "fast-math"),
    ],
)
def test_breaches_are_found(tmp_path: Path, path: str, text: str, rule: str) -> None:
    target = tmp_path / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    messages = lint_c.check_tree(tmp_path)
    assert len(messages) == 1
    assert rule in messages[0]
    assert messages[0].startswith(path + ":")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("csrc/core/a.c", "#pragma omp parallel\n"),
        ("csrc/python/a.c", "#include <Python.h>\n"),
        ("csrc/kernels/a.inc", "/* no malloc() here, and no -ffast-math */\n"),
        ("csrc/ops/a.c", "int f(void)\n{\n" + "    g();\n" * 58 + "}\n"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, path: str, text: str) -> None:
    target = tmp_path / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    assert lint_c.check_tree(tmp_path) == []


def test_every_avx512_operation_is_checked_in_emulation() -> None:
    """The row runs through SIMDe in CI; an operation whose emulation is wrong must show by itself."""
    used = (ROOT / "csrc/simd/vec_avx512.h").read_text(encoding="utf-8")
    code = lint_c.blank_comments(used)
    checked = lint_c.blank_comments((ROOT / "tests/simde/ops.c").read_text(encoding="utf-8"))
    operations = set(re.findall(r"\b_mm512_\w+", code))
    assert operations
    assert operations - set(re.findall(r"\b_mm512_\w+", checked)) == set()


def test_every_loss_and_kernel_is_mutated() -> None:
    """tools/mutate.py reads the lists itself: each target must offer it something to change."""
    targets = [*mutants.loss_targets(), *mutants.kernel_targets()]
    names = {target.name for target in targets if mutants.candidates(target)}
    rows = {target.row for target in targets if target.row}
    assert rows == {info.name for info in prefopt.losses()}
    assert rows <= names
    kernels = (ROOT / "csrc/kernels/kernel_list.h").read_text(encoding="utf-8")
    listed = re.findall(r"^    X\((\w+_row),", kernels, re.MULTILINE)
    assert listed
    assert {f"kernel {kernel}" for kernel in listed} <= names


def test_stored_check_values_are_those_of_the_generator() -> None:
    code = subprocess.run(
        [sys.executable, str(ROOT / "tools/gen_check_values.py"), "--check"], check=False
    ).returncode
    assert code == 0
