"""The report's tables as HTML, in the paper's layout: a block per scenario, a row per method."""

from __future__ import annotations

from html import escape

from .config import SCENARIO_TITLES, START_TITLES
from .methods import TITLES
from .results import Study, Summary
from .stats import CHANCE, Interval


def table(head: list[str], rows: list[list[str]], blocks: dict[int, str] | None = None) -> str:
    """Cells are HTML already; blocks gives the rows before which a heading row stands."""
    parts = ["<table><thead><tr>", *(f"<th>{cell}</th>" for cell in head), "</tr></thead><tbody>"]
    for number, row in enumerate(rows):
        if blocks and number in blocks:
            parts.append(
                f'<tr class="block"><td colspan="{len(head)}">{escape(blocks[number])}</td></tr>'
            )
        parts += ["<tr>", *(f"<td>{cell}</td>" for cell in row), "</tr>"]
    parts.append("</tbody></table>")
    return '<div class="scroll">' + "".join(parts) + "</div>"


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}"


def interval(value: Interval, verdict: bool = True) -> str:
    """54.2 [48.0, 60.4], with the verdict beside it."""
    text = f"{share(value.value)} <small>[{share(value.low)}, {share(value.high)}]</small>"
    if verdict:
        kind = value.verdict.split()[0]
        text += f' <span class="verdict {kind}">{value.verdict}</span>'
    return text


def signed(value: float) -> str:
    """With its sign and a minus that is one."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def main_table(study: Study, size: int) -> str:
    """Every score at one training-set size; the start model's row opens each block."""
    head = [
        "Model",
        "Implicit-reward accuracy, %",
        "Log-prob accuracy, %",
        "Train reward / log-prob, %",
        "Margin",
        "Chosen drift",
        "Rejected drift",
        "KL from start",
        "Chosen NLL",
    ]
    rows = _baseline_rows(study, len(head))
    blocks = {0: "Baselines"}
    for scenario in study.plan.scenarios:
        blocks[len(rows)] = SCENARIO_TITLES[scenario]
        rows.append(_start_row(study, scenario))
        rows += [
            _method_row(study.summary(scenario, method, size)) for method in study.plan.methods
        ]
    return table(head, rows, blocks)


def _baseline_rows(study: Study, columns: int) -> list[list[str]]:
    """What both accuracies are to be compared with: rules that look at no model."""
    longer = study.data["longer_wins"]
    values = {
        "Chance": share(CHANCE),
        "Longer answer wins": interval(Interval(longer["value"], longer["low"], longer["high"])),
    }
    return [[name, text, text, *["\N{EN DASH}"] * (columns - 3)] for name, text in values.items()]


def _start_row(study: Study, scenario: str) -> list[str]:
    starts = [start for start in study.starts if start["start"] == scenario]
    nll = sum(start["chosen_nll"] for start in starts) / len(starts)
    accuracy = study.start_accuracy(scenario)
    dash = "\N{EN DASH}"
    return [
        START_TITLES[scenario],
        dash,
        interval(accuracy),
        dash,
        dash,
        dash,
        dash,
        dash,
        f"{nll:.3f}",
    ]


def _method_row(summary: Summary) -> list[str]:
    means = summary.means
    return [
        f"+ {TITLES[summary.method]}",
        interval(summary.reward),
        interval(summary.logp),
        f"{share(means['train_reward_accuracy'])} / {share(means['train_logp_accuracy'])}",
        signed(means["margin"]),
        signed(means["chosen_drift"]),
        signed(means["rejected_drift"]),
        f"{means['kl']:.4f}",
        f"{means['chosen_nll']:.3f}",
    ]


def size_table(study: Study) -> str:
    """Implicit-reward accuracy for every size."""
    head = ["Model", *(f"{size} pairs" for size in study.plan.sizes)]
    rows: list[list[str]] = []
    blocks = {}
    for scenario in study.plan.scenarios:
        blocks[len(rows)] = SCENARIO_TITLES[scenario]
        for method in study.plan.methods:
            cells = [
                interval(study.summary(scenario, method, size).reward) for size in study.plan.sizes
            ]
            rows.append([f"+ {TITLES[method]}", *cells])
    return table(head, rows, blocks)


def language_model_table(study: Study) -> str:
    """The base model beside the n-gram baselines, on the same held-out tokens."""
    facts = study.language_model
    rows = [
        ["Unigram (Witten-Bell)", f"{facts['unigram']:.3f}", _perplexity(facts["unigram"])],
        [
            "Interpolated trigram (Witten-Bell)",
            f"{facts['trigram']:.3f}",
            _perplexity(facts["trigram"]),
        ],
    ]
    for seed, nll in facts["base"].items():
        rows.append([f"Base model, seed {seed}", f"{nll:.3f}", _perplexity(nll)])
    return table(["Model", "Held-out NLL, nats a token", "Perplexity"], rows)


def _perplexity(nll: float) -> str:
    return f"{2.718281828459045**nll:.0f}"


def samples_table(study: Study, size: int) -> str:
    """One generated answer of each model to the same held-out prompt."""
    rows: list[list[str]] = []
    blocks = {}
    for scenario in study.plan.scenarios:
        blocks[len(rows)] = SCENARIO_TITLES[scenario]
        start = next(start for start in study.starts if start["start"] == scenario)
        rows.append([START_TITLES[scenario], _sample(start["sample"])])
        for method in study.plan.methods:
            text = study.summary(scenario, method, size).sample
            rows += [[f"+ {TITLES[method]}", _sample(text)]]
    return table(["Model", "Answer"], rows, blocks)


def _sample(text: str) -> str:
    return (
        f'<span class="sample">{escape(text.strip())}</span>'
        if text.strip()
        else "<i>ends at once</i>"
    )


def facts_table(facts: dict[str, str]) -> str:
    """Two columns of names and values."""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    return f'<table class="facts"><tbody>{rows}</tbody></table>'
