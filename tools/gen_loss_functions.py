"""Writes the losses' Python functions from the list: prefopt/_loss_functions.py, torch's and JAX's.

python tools/gen_loss_functions.py [--check]

One function a family, with the union of its variants' inputs and parameters; one a procedure.
Signatures, defaults and docstrings come from csrc/losses/loss_list.h.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Library:
    """Whose arrays a module is for."""

    path: str
    title: str
    imports: str
    array: str  # annotation of an input
    scalar: str  # of an input that is one number for the batch
    is_numpy: bool = False  # gradients by keyword, the long docstrings
    aliases: str = ""


def read_rows() -> list[dict]:
    """The list, from the extension itself: the package may not import while it is being changed."""
    path = next(iter((ROOT / "prefopt").glob("_core.cpython-*.so")))
    spec = importlib.util.spec_from_file_location("prefopt._core", path)
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    return list(core.losses())


ROWS = read_rows()

# Names of procedures whose functions are not family_variant.
PROCEDURES = {"tr_dpo.mix": None, "gae.gae": "gae"}
# What the list cannot say of a family.
NOTES = {
    "dpo": "With a sequence as `loss_type` the result is sum_k loss_weights[k] * losses_k: RPO is\n"
    '("sigmoid", "sft"), MPO ("sigmoid", "bco_pair", "sft") with weights (0.8, 0.2, 1). Where policy'
    "\nand reference agree, sigmoid is exactly ln 2. ipo of sums and of averages differ by the "
    "length\nin their margin: do not share a tuned beta.",
    "kto": "A batch may hold one class only. No gradient flows through kl.",
    "cpo": "Each of the B losses gets the NLL term, a mean over the batch's tokens, so that\n"
    "losses.mean() is the preference term's mean plus cpo_alpha times the NLL per token. Without\n"
    "chosen_nll there is no such term. SimPO is simpo, AlphaPO simpo with alpha.",
    "grpo": "losses.mean() is the method's loss.",
    "ppo": "losses.mean() is the mean over the tokens.",
}


def result_type(row: dict) -> str:
    names = [name for name, _ in row["outputs"]]
    return {0: "SequenceLoss", 1: "UnpairedLoss", 2: "PairLoss", 3: "StepPairLoss"}[len(names)]


def families() -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in ROWS:
        if row["kind"] != "procedure":
            found.setdefault(row["family"], []).append(row)
    return found


def merged_inputs(rows: list[dict]) -> list[dict]:
    """Inputs of a family; optional where a variant does not have them, or the first can do without."""
    merged: dict[str, dict] = {}
    for row in rows:
        for item in row["inputs"]:
            merged.setdefault(item["name"], dict(item))
    for name, item in merged.items():
        own = [{i["name"]: i for i in row["inputs"]} for row in rows]
        first = own[0].get(name)
        item["optional"] = not first or first["optional"] or any(name not in each for each in own)
    return sorted(merged.values(), key=lambda item: item["optional"])


def merged_params(rows: list[dict]) -> list[dict]:
    merged: dict[str, dict] = {}
    for row in rows:
        for item in row["parameters"]:
            merged.setdefault(item["name"], item)
    return list(merged.values())


def default_of(item: dict) -> tuple[str, str]:
    """(annotation, default) of a parameter."""
    if item["choices"]:
        return "str", f'DefaultText("{item["choices"].split("|")[int(item["default"])]}")'
    if item["default"] is None:
        return "float | None", "None"
    value = "math.inf" if item["default"] == float("inf") else repr(item["default"])
    return "float", f"DefaultNumber({value})"


def wrap(text: str, first: str = "", rest: str | None = None) -> str:
    return "\n".join(
        textwrap.wrap(
            text, 96, initial_indent=first, subsequent_indent=first if rest is None else rest,
            break_long_words=False, break_on_hyphens=False,
        )
    )  # fmt: skip


SHAPES = {
    "real": "[B] float",
    "count": "[B] count >= 0",
    "flag": "[B] bool",
    "scalar": "one number",
    "tokens": "[B, T] float",
    "mask": "[B, T] bool",
    "indices": "[B, K] integer, -1 for none",
    "gathered": "[N] float",
}


def interval(item: dict) -> str:
    if item["choices"]:
        return item["choices"].replace("|", ", ")
    left, right = "[("[item["low_open"]], "])"[item["high_open"]]
    return f"{left}{item['low']:g}, {item['high']:g}{right}"


def describe(rows: list[dict], inputs: list[dict], params: list[dict]) -> str:
    lines = []
    for row in rows:
        label = f'"{row["variant"]}": ' if len(rows) > 1 else ""
        kink = f" Kink: {row['kink']}." if row["kink"] else ""
        text = f"- {label}{row['formula']}. {row['source']}.{kink}"
        lines.append(wrap(text, "    ", "      "))
    lines.append("")
    for item in inputs:
        grad = "" if item["differentiable"] else ", no gradient"
        if rows[0]["kind"] == "procedure":
            grad = ""
        text = f"{item['name']}: {SHAPES[item['type']]}{grad}; {item['meaning']}."
        lines.append(wrap(text, "    ", "        "))
    for item in params:
        text = f"{item['name']}: in {interval(item)}; {item['meaning']}."
        lines.append(wrap(text, "    ", "        "))
    return "\n".join(lines)


NOTATION = (
    "pi policy, ref reference, w chosen, l rejected; D_s = pi_s - ref_s, D = D_w - D_l; N_s answer "
    "tokens, a_s = pi_s / N_s; g(D) the log-ratio under the divergence; e label_smoothing."
)


def family_function(family: str, rows: list[dict], library: Library) -> str:
    inputs, params = merged_inputs(rows), merged_params(rows)
    kind = result_type(rows[0])
    head = [f"def {family}_loss("]
    star = False
    for item in inputs:
        if not star and (item["optional"] or item["type"] == "scalar"):
            head.append("    *,")
            star = True
        annotation = library.scalar if item["type"] == "scalar" else library.array
        suffix = " | None = None" if item["optional"] else ""
        head.append(f"    {item['name']}: {annotation}{suffix},")
    if not star:
        head.append("    *,")
    several = len(rows) > 1
    if several:
        words = "str | Sequence[str]" if family == "dpo" else "str"
        head.append(f'    loss_type: {words} = "{rows[0]["variant"]}",')
    if family == "dpo":
        head.append("    loss_weights: Sequence[float] | None = None,")
    for item in params:
        annotation, default = default_of(item)
        head.append(f"    {item['name']}: {annotation} = {default},")
    head.append("    convention: str | None = None,")
    if library.is_numpy:
        head += ["    grad_losses: ArrayLike | None = None,", "    return_grads: bool = False,"]
    head.append(f") -> {kind}:")
    body = ["    " + docstring(family, rows, inputs, params, library)]
    chosen = "loss_type" if several else f'"{rows[0]["variant"]}"'
    body.append("    inputs = {")
    body += [f'        "{item["name"]}": {item["name"]},' for item in inputs]
    body += ["    }", "    params = {" if params else "    params: dict[str, Any] = {"]
    body += [f'        "{item["name"]}": {item["name"]},' for item in params]
    body.append("    }")
    weights = ", loss_weights" if family == "dpo" else ""
    if library.is_numpy:
        call = (
            f'call_family("{family}", {chosen}, inputs, params, convention, grad_losses, '
            f"return_grads{weights})"
        )
        body.append(f"    return cast({kind}, {call})")
    else:
        call = f'call_family("{family}", {chosen}, inputs, params, convention{weights})'
        body.append(f"    return {kind}(*{call})")
    return "\n".join(head + body) + "\n"


def title(rows: list[dict]) -> str:
    names = ", ".join(row["name"] for row in rows)
    return f"{names}." if len(names) < 60 else f"The {rows[0]['family']} family of losses."


def docstring(
    family: str, rows: list[dict], inputs: list[dict], params: list[dict], library: Library
) -> str:
    if not library.is_numpy:
        return f'"""{title(rows)} See `prefopt.{family}_loss`."""'
    parts = [f'"""{title(rows)}', "", describe(rows, inputs, params), ""]
    if NOTES.get(family):
        parts += [textwrap.indent(textwrap.fill(NOTES[family], 92), "    "), ""]
    parts.append(wrap(f"Notation: {NOTATION}", "    "))
    parts.append(wrap(
        f"Returns `{result_type(rows[0])}`. Raises ValueError or TypeError naming the argument, "
        "also for one that the chosen loss or convention does not use.", "    "))  # fmt: skip
    parts.append('    """')
    return "\n".join(parts)


def procedure_name(row: dict) -> str | None:
    return PROCEDURES.get(row["name"], row["name"].replace(".", "_"))


def procedure_function(row: dict, library: Library) -> str:
    name = procedure_name(row)
    head = [f"def {name}("]
    star = False
    for item in sorted(row["inputs"], key=lambda each: each["optional"]):
        if item["optional"] and not star:
            head.append("    *,")
            star = True
        suffix = " | None = None" if item["optional"] else ""
        annotation = library.scalar if item["type"] == "scalar" else library.array
        head.append(f"    {item['name']}: {annotation}{suffix},")
    if row["parameters"] and not star:
        head.append("    *,")
    for item in row["parameters"]:
        annotation, default = default_of(item)
        head.append(f"    {item['name']}: {annotation} = {default},")
    head.append(") -> Any:")
    names = ", ".join(key for key, _ in row["outputs"])
    if not library.is_numpy:
        body = [f'    """A named tuple of {names}; see `prefopt.{name}`."""']
    else:
        body = [f'    """{row["name"]}: a named tuple of {names}.', ""]
        body.append(describe([row], row["inputs"], row["parameters"]))
        if row["state"]:
            body += ["", wrap(f"State: {row['state']}.", "    ")]
        body.append('    """')
    pairs = [f'        "{item["name"]}": {item["name"]},' for item in row["inputs"]]
    params = [f'        "{item["name"]}": {item["name"]},' for item in row["parameters"]]
    body += ["    inputs = {", *pairs, "    }"]
    body += ["    params = {", *params, "    }"] if params else ["    params: dict[str, Any] = {}"]
    body.append(f'    return run_procedure("{row["name"]}", inputs, params)')
    return "\n".join(head + body) + "\n"


HEAD = '''"""{title}

Generated by tools/gen_loss_functions.py from csrc/losses/loss_list.h: edit the list.
"""

from __future__ import annotations

{imports}

__all__ = [
{names}]
'''
NUMPY_IMPORTS = """import math
from collections.abc import Sequence
from typing import Any, cast

import numpy.typing as npt

from prefopt._loss_call import call_family, run_procedure
from prefopt._loss_types import (
    DefaultNumber,
    DefaultText,
    PairLoss,
    SequenceLoss,
    StepPairLoss,
    UnpairedLoss,
)"""
OWN_IMPORTS = """import math
from collections.abc import Sequence
from typing import Any

from {library} import {array}

from prefopt._loss_types import DefaultNumber, DefaultText

from ._loss_operator import (
    PairLoss,
    SequenceLoss,
    StepPairLoss,
    UnpairedLoss,
    call_family,
    run_procedure,
)"""
LIBRARIES = (
    Library(
        "prefopt/_loss_functions.py",
        "The losses for NumPy, one function a family.",
        NUMPY_IMPORTS,
        "ArrayLike",
        "ArrayLike",
        is_numpy=True,
        aliases="\nArrayLike = npt.ArrayLike\n",
    ),
    Library(
        "prefopt/torch/_loss_functions.py",
        "The losses for tensors.",
        OWN_IMPORTS.format(library="torch", array="Tensor"),
        "Tensor",
        "Tensor | float",
    ),
    Library(
        "prefopt/jax/_loss_functions.py",
        "The losses for JAX.",
        OWN_IMPORTS.format(library="jax", array="Array"),
        "Array",
        "Array | float",
    ),
)


def module(library: Library) -> str:
    functions = {f"{f}_loss": family_function(f, rows, library) for f, rows in families().items()}
    for row in ROWS:
        name = procedure_name(row) if row["kind"] == "procedure" else None
        if name:
            functions[name] = procedure_function(row, library)
    names = "".join(f'    "{name}",\n' for name in sorted(functions))
    text = HEAD.format(title=library.title, imports=library.imports, names=names)
    return text + library.aliases + "\n\n" + "\n\n".join(functions.values())


def formatted(text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", "prefopt/x.py", "-"],
        input=text, capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return done.stdout


def main() -> int:
    stale = 0
    for library in LIBRARIES:
        path = ROOT / library.path
        text = formatted(module(library))
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text() != text:
                print(
                    f"{path} differs from the list; run tools/gen_loss_functions.py",
                    file=sys.stderr,
                )
                stale = 1
        else:
            path.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main())
