"""Writes docs/losses.md and docs/losses.html from the list of losses; --check only compares.

    python tools/gen_loss_docs.py [--check] [--only md|html]

The HTML needs latex2mathml (pip install -e '.[docs]'), the Markdown nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import loss_examples as examples  # noqa: E402
import loss_tex  # noqa: E402
import loss_tex_free  # noqa: E402
from loss_blocks import (  # noqa: E402
    Block,
    Bullets,
    Code,
    Heading,
    Math,
    Paragraph,
    Table,
    body,
    markdown,
    plain,
    slug,
)

import prefopt  # noqa: E402
from prefopt import LossInfo  # noqa: E402

DOCS = ROOT / "docs"
TEX = {
    **loss_tex.DPO,
    **loss_tex.RELATIVES,
    **loss_tex.UNPAIRED,
    **loss_tex_free.CONTRASTIVE,
    **loss_tex_free.OVER_TOKENS,
    **loss_tex_free.PROCEDURES,
}

INTRODUCTION = [
    "Every loss is a row of `csrc/losses/loss_list.h` and one formula beside it. `prefopt.losses()` "
    "returns this page as data, `prefopt.loss(name, ...)` runs a row by its name, and "
    "`prefopt.reference` has each formula once more in plain NumPy, to be read beside its paper.",
    "This page is made by `tools/gen_loss_docs.py`. What it says of other projects was read from "
    "their code at the version or commit in a convention's name, and is tested by running TRL and "
    "Liger, or against values that the other projects' own code printed once.",
]
NOTATION = [
    "`pi_w`, `pi_l` in code and texts are sums of log-probabilities: of the chosen (winning) and the "
    "rejected (losing) answer under the policy. In formulas they are $\\log\\pi_w$, $\\log\\pi_l$.",
    "`D_s` = `pi_s - ref_s` is an answer's log-ratio to the reference, `D` = `D_w - D_l`; `N_s` the "
    "number of its tokens, `a_s` = `pi_s / N_s`; `B` the size of the batch.",
    "`g(D)` is the log-ratio under `f_divergence_type`: D for `reverse_kl`, 1 - exp(-D) for "
    "`forward_kl`, ln 2 + log sigma(D) for `js_divergence`, (exp((a - 1) D) - 1) / (a - 1) for "
    "`alpha_divergence`; `g'` its derivative.",
    "`e` is `label_smoothing`, sigma the logistic function, `sg(x)` x as a constant.",
]
RULES = [
    "Inputs are float32 or float64 (float16 and bfloat16 are taken as float32); arithmetic is "
    "float64; results have the widest dtype of the real inputs.",
    "`grad_losses`, of the losses' shape (ones with `return_grads=True`), asks for `.grads`, the "
    "vector-Jacobian products by the inputs marked with a gradient.",
    "Rewards are logged numbers without gradient: `beta D_s`, from the sums whatever the loss "
    "averages; without a reference beta times what the loss compares. TDPO's are `beta (D_s + K_s)`, "
    "eps-DPO's scaled by each pair's own beta.",
    "An empty batch gives empty results. NaN and inf follow IEEE arithmetic and stay in their "
    "element, but means over the batch (NLL terms) carry them to every loss. Finite log-ratios up to "
    "1e4 give the float64 value of the formula, or inf with its sign where it exceeds the dtype; "
    "never NaN.",
    "An answer of length 0 has average 0 and gradient 0; a batch without a token has an NLL of 0.",
    "A masked token is not read, costs nothing and has gradient 0.",
]
CONVENTIONS = [
    "`convention=None`, the default, is the paper's formula in a form that is stable everywhere, "
    "with the field's usual defaults (beta 0.1) and every input and parameter of the row: a default "
    "that changed with the loss would make two calls incomparable.",
    "A named convention sets defaults to one project's choices and refuses what that project ignores "
    "or refuses, so that the number is the project's; what stays at its default is computed alike. "
    "The tables give the mean loss of [one batch](#the-batch-of-the-examples) under the project's "
    "defaults, its difference from prefopt's default, and the mean rewards where they differ.",
]
MODIFIERS = [
    "Several losses: a sequence as `loss_type` of `dpo_loss` with `loss_weights` is their weighted "
    'sum: RPO is `("sigmoid", "sft")`, MPO `("sigmoid", "bco_pair", "sft")` with '
    "`(0.8, 0.2, 1)`.",
    "WPO (Zhou et al. 2024, arXiv 2406.11827): `chosen_weights`, `rejected_weights` are "
    "`wpo_weights(logps, lse, lse2, mask)` of the token statistics. They multiply loss and gradient, "
    "not the rewards, and are constants. The authors and TRL 0.x clamp the product of the two at 1, "
    "TRL 1.x does not.",
    "LD-DPO (Liu et al. 2024, arXiv 2409.06411): `sequence_logps(logps, ld_weights(mask, "
    "other_lengths, alpha))` counts what the longer answer has more by alpha. TRL 1.x does so for "
    "policy and reference, LLaMA-Factory and TRL 0.x for the policy alone.",
    "TR-DPO (Gorbatovski et al. 2024, arXiv 2404.09656): `mix_reference(policy, ref, 0.6, out=ref)` "
    "on each array of parameters every 512 optimiser steps, as TRL's `SyncRefModelCallback`; stored "
    "log-probabilities of the reference are then out of date.",
    "Sampling: `uniforms(seed, shape)` gives the numbers that `sampo_indices`, `beta_dpo_keep` and "
    "`rso_accept` take, the same on every machine.",
    "Batches cut over ranks and steps: `kto_kl(state=...)`, `bco_delta`, `beta_dpo_state`, "
    "`eps_dpo_beta`, the gathered log-ratios of `aot` and the token counts `nll_tokens`, `num_tokens` "
    "carry what the parts share, so that their losses add up to those of the whole.",
]
TITLES = {
    "pair": "Pairs",
    "unpaired": "Single answers",
    "token": "Tokens",
    "procedure": "Procedures",
}
TYPES = {
    "real": "[B] float",
    "count": "[B] count >= 0",
    "flag": "[B] bool",
    "scalar": "number",
    "tokens": "[B, T] float",
    "mask": "[B, T] bool",
    "indices": "[B, K] integer, -1 for none",
    "gathered": "[N] float",
}
SHAPES = {
    "rows": "[B]",
    "number": "number",
    "flags": "[B] bool",
    "tokens": "[B, T]",
    "positions": "[B, T] integer",
}
# Arguments that conventions refuse or need together.
GROUPS = {
    "WPO's weights": ("chosen_weights", "rejected_weights"),
    "f-divergences": ("f_divergence_type", "f_alpha_divergence_coef", "f_exponent_cap"),
    "lengths": ("chosen_lengths", "rejected_lengths"),
}
INFOS = prefopt.losses()


# ---- one row -------------------------------------------------------------------------------------


def function_of(info: LossInfo) -> str:
    """The public function, and the arguments that choose the row."""
    if info.kind == "procedure":
        names = {"gae.gae": "gae", "tr_dpo.mix": "mix_reference"}
        return f"`{names.get(info.name, info.name.replace('.', '_'))}`"
    variants = [each for each in INFOS if each.family == info.family and each.kind != "procedure"]
    chosen = f'(loss_type="{info.variant}")' if len(variants) > 1 else ""
    return f"`{info.family}_loss{chosen}`"


def formulas(info: LossInfo) -> list[Block]:
    """Value and gradient."""
    tex = TEX[info.name]
    differentiable = [item.name for item in info.inputs if item.differentiable]
    if info.kind != "procedure" and list(tex.grads) != differentiable:
        raise ValueError(f"{info.name}: derivatives by {differentiable}, got {list(tex.grads)}")
    blocks: list[Block] = [Math(list(tex.loss)), Code(info.formula)]
    if tex.grads:
        letter = "L_t" if info.tokenwise else "L_i" if "L_i" in tex.loss[0] else "L"
        lines = [
            rf"\frac{{\partial {letter}}}{{\partial {loss_tex.SYMBOLS[name]}}} = {value}"
            for name, value in tex.grads.items()
        ]
        blocks += [Paragraph("Gradient:"), Math([*tex.where, *lines])]
    return blocks


def arguments(info: LossInfo) -> list[Block]:
    """Inputs and parameters."""
    has_gradient = info.kind != "procedure"
    rows = []
    for item in info.inputs:
        optional = ", optional" if item.optional else ""
        gradient = ["yes" if item.differentiable else "constant"] if has_gradient else []
        kind = plain(f"{TYPES[item.type]}{optional}")
        rows.append([f"`{item.name}`", kind, *gradient, plain(item.meaning)])
    blocks: list[Block] = [
        Table(["input", "type", *(["gradient"] if has_gradient else []), "meaning"], rows)
    ]
    rows = []
    for parameter in info.parameters:
        default = "from the inputs"
        if parameter.default is not None:
            is_word = isinstance(parameter.default, str)
            default = f"`{parameter.default}`" if is_word else f"{parameter.default:g}"
        rows.append(
            [f"`{parameter.name}`", default, plain(parameter.range), plain(parameter.meaning)]
        )
    if rows:
        blocks.append(Table(["parameter", "default", "range", "meaning"], rows))
    return blocks


def facts(info: LossInfo) -> Bullets:
    """Source, rewards, state, kinks."""
    items = [f"Source: {plain(info.source)}."]
    if info.kind == "procedure":
        outputs = ", ".join(f"`{name}` {SHAPES[shape]}" for name, shape in info.outputs)
        items.append(f"Outputs: {outputs}.")
    else:
        tokens = {
            "sum": "sums over tokens",
            "lengths": "sums with lengths given, averages (or sums) without",
        }
        if info.kind != "token":
            items.append(f"Log-probabilities: {tokens[info.tokens]}.")
        if beside := ", ".join(f"`{name}`" for name, _ in info.outputs):
            items.append(f"Beside the losses: {beside}.")
    if info.state:
        items.append(f"State: {plain(info.state)}.")
    items.append(f"Kinks: {plain(info.kink) or 'none'}.")
    return Bullets(items)


def conventions(info: LossInfo) -> list[Block]:
    """The numbers of the worked example, and who computes which; equal entries share a line."""
    default = examples.outcome(info, None)
    lines: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for each in prefopt.conventions(info.name):
        got = examples.outcome(info, each)
        values = ", ".join(f"`{name}` {plain(str(value))}" for name, value in each.defaults.items())
        key = (
            examples.number(got.loss),
            examples.number(got.loss - default.loss),
            rewards(got) if got.rewards != default.rewards else "",
            values,
            plain(each.differs),
            names(each.required),
            names(each.refused),
        )
        known, sources = lines.setdefault(key, ([], []))
        known.append(f"`{each.name}`")
        sources.append(plain(each.source))
    rows = [["default", examples.number(default.loss), "", rewards(default), *[""] * 5]]
    for key, (known, sources) in lines.items():
        rows.append([", ".join(known), *key, ", ".join(dict.fromkeys(sources))])
    head = ["convention", "mean loss", "difference", "mean rewards", "defaults", "what differs"]
    head += ["needs", "refuses", "read in"]
    keep = [k for k in range(len(head)) if k == 0 or any(row[k] for row in rows)]
    blocks: list[Block] = [Table([head[k] for k in keep], [[row[k] for k in keep] for row in rows])]
    if absent := missing(info.name):
        blocks.append(Paragraph("Not there: " + "; ".join(absent) + "."))
    elif len(prefopt.conventions(info.name)) == 1:
        blocks.append(Paragraph("None of the other projects has it."))
    return blocks


def names(given: tuple[str, ...]) -> str:
    """Names of arguments, those that go together as one."""
    left = list(given)
    words = []
    for word, group in GROUPS.items():
        if all(name in left for name in group):
            words.append(word)
            left = [name for name in left if name not in group]
    return ", ".join([*words, *(f"`{name}`" for name in left)])


def rewards(outcome: examples.Outcome) -> str:
    return ", ".join(examples.number(each) for each in outcome.rewards)


def missing(name: str) -> list[str]:
    """Why projects have no such loss."""
    entries = json.loads((ROOT / "prefopt" / "conventions.json").read_text(encoding="utf-8"))
    return [
        f"`{each['name']}` ({plain(each['missing'])})"
        for each in entries
        if each["loss"] == name and "missing" in each
    ]


def section(info: LossInfo) -> list[Block]:
    blocks: list[Block] = [Heading(2, info.name), Paragraph(f"{function_of(info)}")]
    blocks += formulas(info)
    blocks += arguments(info)
    blocks.append(facts(info))
    if info.kind == "procedure":
        made = examples.procedure(info)
        blocks.append(Paragraph(f"Of [the batch](#the-batch-of-the-examples): {made}."))
        return blocks
    return [*blocks, *conventions(info)]


# ---- the page ------------------------------------------------------------------------------------


def index() -> Table:
    """Every row, by family."""
    families: dict[str, list[LossInfo]] = {}
    for info in INFOS:
        key = info.family if info.kind != "procedure" else "procedures"
        families.setdefault(key, []).append(info)
    rows = []
    for family, infos in families.items():
        links = ", ".join(f"[`{info.name}`](#{slug(info.name)})" for info in infos)
        kinds = ", ".join(dict.fromkeys(TITLES[info.kind].lower() for info in infos))
        rows.append([f"`{family}`" if family != "procedures" else family, kinds, links])
    return Table(["family", "of", "rows"], rows)


def batch() -> list[Block]:
    """The worked example's numbers."""
    used = {
        kind: {item.name for info in INFOS if info.kind == kind for item in info.inputs}
        for kind in TITLES
    }
    rows, seen = [], set()
    for kind, title in TITLES.items():
        for name, value in examples.BATCH.items():
            if name in used[kind] - seen:
                rows.append([title, f"`{name}`", examples.text(value)])
                seen.add(name)
    return [Heading(2, "The batch of the examples"), Table(["of", "input", "values"], rows)]


def page() -> list[Block]:
    if stray := set(TEX) - {info.name for info in INFOS}:
        raise ValueError(f"TeX of no row: {sorted(stray)}")
    blocks: list[Block] = [Heading(1, "Losses")]
    blocks += [Paragraph(text) for text in INTRODUCTION]
    blocks += [Heading(2, "Index"), index()]
    blocks += [Heading(2, "Notation"), Bullets(NOTATION)]
    blocks += [Heading(2, "What holds for all of them"), Bullets(RULES)]
    blocks += [Heading(2, "Conventions"), *(Paragraph(text) for text in CONVENTIONS)]
    blocks += [Heading(2, "What combines with them"), Bullets(MODIFIERS)]
    for info in INFOS:
        blocks += section(info)
    return blocks + batch()


def html_page(blocks: list[Block]) -> str:
    style = (ROOT / "tools" / "loss_page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>prefopt: losses</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{body(blocks)}\n</main>\n</body>\n</html>\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--only", choices=("md", "html"), help="one of the two files")
    options = parser.parse_args()
    blocks = page()
    stale = 0
    for kind, make in (("md", markdown), ("html", html_page)):
        if options.only not in (None, kind):
            continue
        path, made = DOCS / f"losses.{kind}", make(blocks)
        if not options.check:
            path.write_text(made, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != made:
            print(f"{path} differs from the list; run tools/gen_loss_docs.py", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
