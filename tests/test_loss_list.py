"""The list is the one home of names, defaults and ranges: oracle, signatures and docs agree."""

from __future__ import annotations

import ast
import inspect
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loss_cases import PARAMETERS, batch, run
from oracle.losses import ORACLES

import prefopt
from prefopt import reference

ROOT = Path(__file__).resolve().parent.parent
ROWS = {row.name: row for row in prefopt.losses()}

# The public function of a row, and the arguments that choose the row.
FUNCTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "dpo.sigmoid": ("dpo_loss", {"loss_type": "sigmoid"}),
    "dpo.ipo": ("dpo_loss", {"loss_type": "ipo"}),
    "kto.kto": ("kto_loss", {"loss_type": "kto"}),
    "cpo.sigmoid": ("cpo_loss", {"loss_type": "sigmoid"}),
    "sft.nll": ("sft_loss", {}),
}
CALL_OPTIONS = {"convention", "grad_losses", "return_grads"}


def test_every_row_has_an_oracle_a_function_and_cases() -> None:
    assert set(ROWS) == set(ORACLES) == set(FUNCTIONS) == set(PARAMETERS)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_row_agrees_with_the_oracle(name: str) -> None:
    row, oracle = ROWS[name], ORACLES[name]
    assert tuple(i.name for i in row.inputs if i.differentiable) == oracle.inputs
    assert tuple(i.name for i in row.inputs if not i.differentiable) == oracle.constants
    assert {i.name for i in row.inputs if i.optional} == set(oracle.optional)
    assert {p.name: p.default for p in row.parameters} == oracle.parameters
    assert row.rewards == oracle.rewards


@pytest.mark.parametrize("name", sorted(ROWS))
def test_row_is_complete(name: str) -> None:
    row = ROWS[name]
    assert f"{row.family}.{row.variant}" == name
    assert row.kind in ("pair", "unpaired", "batch", "token", "vocab", "procedure")
    assert row.tokens in ("sum", "lengths")
    assert row.formula
    assert row.source
    for item in (*row.inputs, *row.parameters):
        assert item.meaning
    for parameter in row.parameters:
        assert parameter.low < parameter.high
        if parameter.default is not None:
            assert parameter.low <= parameter.default < parameter.high


@pytest.mark.parametrize("name", sorted(ROWS))
@pytest.mark.parametrize("module", [prefopt, reference])
def test_signature_agrees_with_the_list(name: str, module: Any) -> None:
    """Every input and parameter of the row is an argument with the row's default."""
    function = getattr(module, FUNCTIONS[name][0])
    arguments = inspect.signature(function).parameters
    for parameter in ROWS[name].parameters:
        assert arguments[parameter.name].default == parameter.default
        assert arguments[parameter.name].kind is inspect.Parameter.KEYWORD_ONLY
    for item in ROWS[name].inputs:
        default = arguments[item.name].default
        assert default is (None if item.optional else inspect.Parameter.empty)
    assert set(arguments) >= CALL_OPTIONS


def test_reference_has_the_signatures_of_prefopt() -> None:
    for function, _ in FUNCTIONS.values():
        ours = inspect.signature(getattr(prefopt, function)).parameters
        theirs = inspect.signature(getattr(reference, function)).parameters
        assert {k: (p.default, p.kind) for k, p in ours.items()} == {
            k: (p.default, p.kind) for k, p in theirs.items()
        }


def test_ipo_takes_what_its_row_takes() -> None:
    row = ROWS["dpo.ipo"]
    names = {item.name for item in (*row.inputs, *row.parameters)}
    assert set(inspect.signature(prefopt.ipo_loss).parameters) == names | CALL_OPTIONS


@pytest.mark.parametrize("name", sorted(ROWS))
def test_named_function_is_the_row(name: str, rng: np.random.Generator) -> None:
    function, choice = FUNCTIONS[name]
    inputs = batch(name, rng)
    for params in PARAMETERS[name]:
        one = getattr(prefopt, function)(**inputs, **params, **choice, return_grads=True)
        two = run(name, inputs, params, return_grads=True)
        assert type(one) is type(two)
        for left, right in zip(
            (*one, *one.grads.values()), (*two, *two.grads.values()), strict=True
        ):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_ranges_are_enforced_at_both_ends(name: str, rng: np.random.Generator) -> None:
    inputs = batch(name, rng)
    for parameter in ROWS[name].parameters:
        for value, is_open in (
            (parameter.low, parameter.low_open),
            (parameter.high, parameter.high_open),
        ):
            inside = math.nextafter(value, 0.5 * (parameter.low + min(parameter.high, 1e9)))
            outside = math.nextafter(value, math.inf if value == parameter.high else -math.inf)
            run(name, inputs, {parameter.name: inside})
            if is_open:
                with pytest.raises(ValueError, match=f"^{parameter.name}: expected a value in"):
                    run(name, inputs, {parameter.name: value})
            else:
                run(name, inputs, {parameter.name: value})
                with pytest.raises(ValueError, match=f"^{parameter.name}: expected a value in"):
                    run(name, inputs, {parameter.name: outside})
        for value in (math.nan, -math.inf):
            with pytest.raises(ValueError, match=f"^{parameter.name}: expected a value in"):
                run(name, inputs, {parameter.name: value})


def test_docs_table_is_current() -> None:
    """docs/losses.md is generated; `python tools/gen_loss_docs.py` rewrites it."""
    tool = ROOT / "tools" / "gen_loss_docs.py"
    if not tool.exists():
        pytest.skip("not a source checkout")
    done = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_oracle_shares_nothing_with_prefopt() -> None:
    tree = ast.parse((ROOT / "tests" / "oracle" / "losses.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
    }
    assert imported <= {"__future__", "collections", "dataclasses", "typing", "mpmath", "torch"}


FORMULA_PROGRAM = """
#include <cmath>
#include <cstdio>
#include <cstring>
#include "losses/loss_table.h"
#define PFO_HD
#define PFO_REAL float
#define PFO_FN(name) pfo_##name##_f32
#define PFO_EXP expf
#define PFO_LOG1P log1pf
#define PFO_FABS fabsf
#include "losses/formulas.inc"
#undef PFO_REAL
#undef PFO_FN
#undef PFO_EXP
#undef PFO_LOG1P
#undef PFO_FABS
#define PFO_REAL double
#define PFO_FN(name) pfo_##name##_f64
#define PFO_EXP exp
#define PFO_LOG1P log1p
#define PFO_FABS fabs
#include "losses/formulas.inc"

int main() {
    for (int loss = 0; loss < PFO_LOSS_COUNT; loss++) {
        pfo_loss_inputs_f32 x32; pfo_loss_params_f32 p32; pfo_loss_terms_f32 out32;
        pfo_loss_inputs_f64 x64; pfo_loss_params_f64 p64; pfo_loss_terms_f64 out64;
        float *x = reinterpret_cast<float *>(&x32), *p = reinterpret_cast<float *>(&p32);
        double *xd = reinterpret_cast<double *>(&x64), *pd = reinterpret_cast<double *>(&p64);
        for (int k = 0; k < PFO_INPUT_FIELD_COUNT; k++) {
            x[k] = 1.5f + 0.25f * float(k);
            xd[k] = double(x[k]);
        }
        for (int k = 0; k < PFO_PARAM_FIELD_COUNT; k++) {
            p[k] = 0.375f;
            pd[k] = 0.375;
        }
        pfo_loss_terms_of_f32(loss, &x32, &p32, &out32);
        pfo_loss_terms_of_f64(loss, &x64, &p64, &out64);
        std::printf("%.9g %.17g\\n", double(out32.value), out64.value);
    }
}
"""


def test_formulas_are_common_to_c11_and_cpp17(tmp_path: Path) -> None:
    """They compile as C++17 for float and double without a warning, as nvcc will need them."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not (ROOT / "csrc").exists():
        pytest.skip("no C++ compiler, or not a source checkout")
    source, program = tmp_path / "formulas.cpp", tmp_path / "formulas"
    source.write_text(FORMULA_PROGRAM)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror"]
    subprocess.run(
        [compiler, *flags, f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)], check=True
    )
    lines = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    pairs = [tuple(map(float, line.split())) for line in lines if line]
    assert len(pairs) == len(ROWS)
    for single, double in pairs:
        assert single == pytest.approx(double, rel=2e-6)
