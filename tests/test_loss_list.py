"""The list is the one home of names, defaults and ranges: oracle, signatures and docs agree."""

from __future__ import annotations

import importlib.util
import inspect
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import row_cases
from oracle.losses import ORACLES

import prefopt
from prefopt import reference

try:
    from prefopt import torch as prefopt_torch
except ImportError:
    prefopt_torch = prefopt  # its names are the same; the torch tests skip

ROOT = Path(__file__).resolve().parent.parent
ROWS = {row.name: row for row in prefopt.losses()}

FAMILIES: dict[str, list[Any]] = {}
for _row in ROWS.values():
    FAMILIES.setdefault(_row.family, []).append(_row)

# Procedures whose function is not called family_variant.
PROCEDURES = {"tr_dpo.mix": "mix_reference", "gae.gae": "gae"}


def function_of(row: Any) -> tuple[str, dict[str, str]]:
    """The public function of a row, and the arguments that choose the row."""
    if row.kind == "procedure":
        return PROCEDURES.get(row.name, row.name.replace(".", "_")), {}
    variants = [each for each in FAMILIES[row.family] if each.kind != "procedure"]
    return f"{row.family}_loss", {"loss_type": row.variant} if len(variants) > 1 else {}


FUNCTIONS = {name: function_of(row) for name, row in ROWS.items() if name != "tr_dpo.mix"}
LOSSES = sorted(name for name, row in ROWS.items() if row.kind != "procedure")
# Any number in range passes the list, but not the procedure, which wants a whole one.
WHOLE_NUMBERS = ("num_samples", "gather_offset")
CALL_OPTIONS = {"convention", "grad_losses", "return_grads"}


def test_every_row_has_an_oracle_a_function_and_cases() -> None:
    assert set(ROWS) == set(ORACLES)
    for name, (function, _) in FUNCTIONS.items():
        for module in (prefopt, reference, prefopt_torch):
            assert hasattr(module, function), f"{name}: {module.__name__}.{function}"


@pytest.mark.parametrize("name", sorted(ROWS))
def test_row_agrees_with_the_oracle(name: str) -> None:
    row, oracle = ROWS[name], ORACLES[name]
    assert tuple(i.name for i in row.inputs if i.differentiable) == oracle.inputs
    assert tuple(i.name for i in row.inputs if not i.differentiable) == oracle.constants
    assert {i.name for i in row.inputs if i.optional} == set(oracle.optional)
    assert {p.name: p.default for p in row.parameters} == oracle.parameters
    assert row.rewards == oracle.rewards
    assert tuple(key for key, _ in row.outputs) == oracle.outputs


@pytest.mark.parametrize("name", sorted(ROWS))
def test_row_is_complete(name: str) -> None:
    row = ROWS[name]
    assert f"{row.family}.{row.variant}" == name
    assert row.kind in ("pair", "unpaired", "token", "procedure")
    assert row.tokens in ("sum", "lengths")
    assert row.formula
    assert row.source
    for item in (*row.inputs, *row.parameters):
        assert item.meaning
    for parameter in row.parameters:
        assert parameter.low < parameter.high
        if isinstance(parameter.default, float):
            assert parameter.low <= parameter.default <= parameter.high


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("module", [prefopt, prefopt_torch, reference], ids=lambda m: m.__name__)
def test_signature_agrees_with_the_list(name: str, module: Any) -> None:
    """Every input and parameter of the row is an argument; parameters have the row's default."""
    row = ROWS[name]
    function, _ = FUNCTIONS[name]
    arguments = inspect.signature(getattr(module, function)).parameters
    several = {
        p.name: {q.default for r in FAMILIES[row.family] for q in r.parameters if q.name == p.name}
        for p in row.parameters
    }
    for parameter in row.parameters:
        default = arguments[parameter.name].default
        assert default == parameter.default or default in several[parameter.name]
        assert arguments[parameter.name].kind is inspect.Parameter.KEYWORD_ONLY
    needed = {i.name for each in FAMILIES[row.family] for i in each.inputs if not i.optional}
    for item in row.inputs:
        default = arguments[item.name].default
        assert default is None or (default is inspect.Parameter.empty and item.name in needed)
    if row.kind != "procedure":
        wanted = {"convention"} if module is prefopt_torch else CALL_OPTIONS
        assert set(arguments) >= wanted


@pytest.mark.parametrize("function", sorted({function for function, _ in FUNCTIONS.values()}))
def test_reference_has_the_signatures_of_prefopt(function: str) -> None:
    ours = inspect.signature(getattr(prefopt, function)).parameters
    theirs = inspect.signature(getattr(reference, function)).parameters
    assert {k: (p.default, p.kind) for k, p in ours.items()} == {
        k: (p.default, p.kind) for k, p in theirs.items()
    }


def test_ipo_takes_what_its_row_takes() -> None:
    row = ROWS["dpo.ipo"]
    names = {item.name for item in row.inputs} | {item.name for item in row.parameters}
    names -= {"chosen_weights", "rejected_weights"}
    names -= {"f_divergence_type", "f_alpha_divergence_coef", "f_exponent_cap"}
    assert set(inspect.signature(prefopt.ipo_loss).parameters) == names | CALL_OPTIONS


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_named_function_is_the_row(name: str) -> None:
    function, choice = FUNCTIONS[name]
    arrays = row_cases.inputs(name)
    options = {} if name in row_cases.PROCEDURES else {"return_grads": True}
    one = getattr(prefopt, function)(**arrays, **choice, **options)
    two = row_cases.run(name, arrays, **options)
    assert type(one) is type(two)
    for left, right in zip(row_cases.results(one), row_cases.results(two), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_ranges_are_enforced_at_both_ends(name: str) -> None:
    def run(value: float | str) -> None:
        arrays = row_cases.inputs(name)
        if parameter.name == "kl_beta" or parameter.name.endswith("tokens"):
            arrays = row_cases.inputs(name)
        row_cases.run(name, arrays, **{parameter.name: value})

    for parameter in ROWS[name].parameters:
        if parameter.choices:
            for word in parameter.choices:
                run(word)
            with pytest.raises(ValueError, match=f"^{parameter.name}: unknown 'reverse_k'"):
                run("reverse_k")
            continue
        for value, is_open in (
            (parameter.low, parameter.low_open),
            (parameter.high, parameter.high_open),
        ):
            inside = math.nextafter(
                value, 0.5 * (max(parameter.low, -1e9) + min(parameter.high, 1e9))
            )
            outside = math.nextafter(value, math.inf if value == parameter.high else -math.inf)
            refused = pytest.raises(ValueError, match=f"^{parameter.name}: expected a value in")
            if parameter.name not in WHOLE_NUMBERS:
                run(inside)
            if is_open:
                with refused:
                    run(value)
            elif math.isfinite(value):
                if parameter.name not in WHOLE_NUMBERS:
                    run(value)
                with refused:
                    run(outside)
        for value in (math.nan, -math.inf):
            with pytest.raises(ValueError, match=f"^{parameter.name}: expected a value in"):
                run(value)


def test_conventions_name_what_exists() -> None:
    """Every entry's defaults, refusals and needs are of its row; no loss is without a convention."""
    for row in ROWS.values():
        known = {item.name for item in row.inputs} | {item.name for item in row.parameters}
        for convention in prefopt.conventions(row.name):
            assert convention.loss == row.name
            assert convention.source
            assert {*convention.defaults, *convention.refused, *convention.required} <= known
        if row.kind != "procedure":
            assert any(each.name == "paper" for each in prefopt.conventions(row.name)), row.name


@pytest.mark.parametrize("name", LOSSES)
def test_conventions_refuse_what_the_project_ignores(name: str) -> None:
    arrays = row_cases.inputs(name, optional=False)
    row = ROWS[name]
    types = {item.name: item.type for item in row.inputs}
    for convention in prefopt.conventions(name):
        for key in convention.refused:
            value: Any = 0.5
            if key in types:
                value = row_cases.inputs(name)[key] if types[key] != "gathered" else np.zeros(9)
            elif key == "f_divergence_type":
                value = "forward_kl"
            with pytest.raises(ValueError, match=f"^{key}: {convention.name} does not use it"):
                prefopt.loss(name, **{**arrays, key: value}, convention=convention.name)
        for key in convention.required:
            without = {k: v for k, v in arrays.items() if k != key}
            with pytest.raises(ValueError, match=f"{convention.name} needs it in {name}"):
                prefopt.loss(name, **without, convention=convention.name)


def test_unknown_conventions() -> None:
    arrays = row_cases.inputs("dpo.ipo", optional=False)
    for convention, message in (
        ("trl1.16", "did you mean trl-1.16"),
        ("liger-0.8.5", "liger-0.8.5 has no dpo.ipo: NotImplementedError"),
        ("zzz", "dpo.ipo has no convention 'zzz'; available: paper, trl-1.16"),
    ):
        with pytest.raises(ValueError, match=f"^convention: .*{message}"):
            prefopt.loss("dpo.ipo", **arrays, convention=convention)
    with pytest.raises(TypeError, match=r"^convention: expected a string or None, got int"):
        prefopt.loss("dpo.ipo", **arrays, convention=3)
    with pytest.raises(ValueError, match=r"no loss is called 'dpo.ip'; did you mean dpo.ipo"):
        prefopt.conventions("dpo.ip")


def test_docs_table_is_current() -> None:
    """docs/losses.* are generated; `python tools/gen_loss_docs.py` rewrites them."""
    tool = ROOT / "tools" / "gen_loss_docs.py"
    if not tool.exists():
        pytest.skip("not a source checkout")
    command = [sys.executable, str(tool), "--check"]
    if importlib.util.find_spec("latex2mathml") is None:
        command += ["--only", "md"]  # the HTML is checked where its converter is, in CI's lint
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


FORMULA_PROGRAM = """
#include <cfloat>
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
#define PFO_EXPM1 expm1f
#define PFO_LOG logf
#define PFO_LARGEST FLT_MAX
#include "losses/formulas.inc"
#undef PFO_REAL
#undef PFO_FN
#undef PFO_EXP
#undef PFO_LOG1P
#undef PFO_FABS
#undef PFO_EXPM1
#undef PFO_LOG
#undef PFO_LARGEST
#define PFO_REAL double
#define PFO_FN(name) pfo_##name##_f64
#define PFO_EXP exp
#define PFO_LOG1P log1p
#define PFO_FABS fabs
#define PFO_EXPM1 expm1
#define PFO_LOG log
#define PFO_LARGEST DBL_MAX
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
