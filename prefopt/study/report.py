"""report.html: one self-contained page, no script, no second file."""

from __future__ import annotations

from html import escape

from . import tables
from .config import Plan
from .figures import Figure
from .results import Study
from .svg import figure_svg

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: #1d2127;
       background: #fff; max-width: 1100px; margin: 2.2em auto 4em; padding: 0 1.4em; }
h1 { font-size: 1.65em; margin: 0 0 .2em; } h2 { font-size: 1.2em; margin: 2em 0 .4em; } p, ul {
max-width: 54em; } p.lead { color: #4a5059; } ul.findings { background: #f4f6f9; border-left: 4px
solid #2f6db5; padding: .8em 1em .8em 2em; margin: 1em 0; } .scroll { overflow-x: auto; } table {
border-collapse: collapse; font-size: .88em; margin: .6em 0; } th, td { padding: .28em .7em;
text-align: right; vertical-align: top; border-bottom: 1px solid #e6e8eb; } thead th {
border-bottom: 2px solid #1d2127; font-weight: 600; vertical-align: bottom; } th:first-child,
td:first-child { text-align: left; white-space: nowrap; } tr.block td { text-align: left;
font-weight: 600; background: #f4f6f9; padding-top: .5em; } td small { color: #5d646e; white-space:
nowrap; } .verdict { display: inline-block; font-size: .82em; border-radius: 3px; padding: 0 .4em;
white-space: nowrap; } .verdict.no { background: #eceef1; color: #5d646e; } .verdict.above {
background: #dcefe4; color: #1c6443; } .verdict.below { background: #f7e0dc; color: #8f2d1b; }
table.facts th { text-align: left; font-weight: 600; } table.facts td { text-align: left; }
td:has(.sample), td:has(i) { text-align: left; } .sample { white-space: pre-wrap; } figure { margin:
1.2em 0; } .panels { display: flex; flex-wrap: wrap; gap: 6px; } .panel svg { max-width: 100%;
height: auto; } .panels:has(.panel:nth-child(4)) { max-width: 740px; }
.samples { max-width: 62em; }
.samples thead th { text-align: left; }
figcaption { color: #4a5059; font-size: .9em; max-width: 60em; } .legend { display:
flex; flex-wrap: wrap; gap: .2em 1.2em; font-size: .88em; margin: .2em 0; } .legend svg {
vertical-align: -2px; } text.tick { font: 11px system-ui, sans-serif; fill: #4a5059; } text.title {
font: 600 12px system-ui, sans-serif; fill: #1d2127; } dl { max-width: 58em; } dt { font-weight:
600; margin-top: .5em; } dd { margin: 0 0 0 1.2em; }
"""

DEFINITIONS = {
    "Implicit-reward accuracy": "share of held-out pairs whose chosen answer gained more "
    "log-probability since the "
    "start than the rejected one: log p \N{MINUS SIGN} log p(start), summed over the answer. For "
    "CPO, which trains "
    "without a reference, the start stands in for one here; its own reward is log p, the next "
    "column.",
    "Log-prob accuracy": "share of held-out pairs whose chosen answer has the higher log p. Sums "
    "favour short "
    "answers, so a model that knows nothing need not be at 50 %: compare with the start model's "
    "row.",
    "Train": "both accuracies on pairs that were trained on. The distance to the held-out columns "
    "is "
    "memorisation.",
    "Margin, drift": "nats per answer. Margin is chosen drift minus rejected drift. That both can "
    "fall while "
    "the margin grows is how these losses work: they ask for a difference only.",
    "KL from start": "KL(model \N{DOUBLE VERTICAL LINE} start) over the whole vocabulary, nats "
    "per token, at "
    "positions of held-out chosen answers.",
    "Chosen NLL": "nats per token of the held-out chosen answers; lower is better.",
    "Intervals": "95 %, bootstrap over held-out pairs of the hits averaged over seeds "
    "(results.csv has Wilson "
    "intervals of each cell). <i>No signal</i>: the interval "
    "holds 50 %. Of many intervals at 95 %, one in twenty misses chance by luck alone.",
}


def report_html(
    study: Study, figures: list[Figure], sample_prompt: str, pngs: list[str] | None
) -> str:
    """The page."""
    size = max(study.plan.sizes)
    by_name = {figure.name: figure_svg(figure) for figure in figures}
    body = [
        "<h1>DPO, IPO, KTO and CPO in three scenarios</h1>",
        f'<p class="lead">{_lead(study)}</p>',
        f'<ul class="findings">{"".join(f"<li>{line}</li>" for line in findings(study))}</ul>',
        f"<h2>Scores after {size} pairs</h2>",
        tables.main_table(study, size),
        "<h2>Accuracy against training-set size</h2>",
        by_name["accuracy_reward"],
        tables.size_table(study),
        by_name["accuracy_logp"],
        "<h2>Where the log-probabilities went</h2>",
        by_name["drift"],
        "<h2>Training curves</h2>",
        by_name["training_curves"],
        "<h2>Is it a language model?</h2>",
        f"<p>{_language_model_text(study)}</p>",
        tables.language_model_table(study),
        "<h2>Generation samples</h2>",
        f"<p>Prompt (held out): <b>{escape(sample_prompt)}</b>. One draw each, temperature 0.7, "
        f"first seed, after "
        f"{size} pairs. A model this small writes broken English in the manner of an answer.</p>",
        f'<div class="samples">{tables.samples_table(study, size)}</div>',
        "<h2>How to read the scores</h2>",
        "<dl>"
        + "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in DEFINITIONS.items())
        + "</dl>",
        "<h2>What was run, and how long</h2>",
        tables.facts_table(run_facts(study)),
        f"<p>{_files_text(pngs)}</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>prefopt study: "
        f"{escape(study.data['name'])}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _lead(study: Study) -> str:
    data, model = study.data, study.plan.training.model
    return (
        f"The design of arXiv 2404.14723 in miniature: a "
        f"{study.language_model['parameters'] / 1e6:.1f} M parameter "
        f"language model (window of {model.context} tokens, hidden state {model.hidden}, "
        f"vocabulary {model.vocab}) "
        f"aligned on {data['train_pairs']} real preference pairs ({escape(data['name'])}) and "
        f"scored on "
        f"{data['heldout_pairs']} pairs with other prompts. The paper's models have 7 billion "
        "parameters and were scored on benchmarks: methods and comparison are the paper's, the "
        "numbers cannot be set beside the paper's."
    )


def findings(study: Study) -> list[str]:
    """The page's opening lines, read off the numbers."""
    size = max(study.plan.sizes)
    at_size = [summary for summary in study.summaries if summary.size == size]
    above = [s for s in at_size if s.reward.verdict == "above chance"]
    below = [s for s in at_size if s.reward.verdict == "below chance"]
    none = len(at_size) - len(above) - len(below)
    lines = [
        f"After {size} pairs the implicit reward is above chance on held-out pairs in "
        f"<b>{len(above)} of "
        f"{len(at_size)}</b> scenario and method combinations; in {none} there is <b>no signal</b>"
        + (f", in {len(below)} it is below chance." if below else ".")
    ]
    low, high = min(s.reward.value for s in at_size), max(s.reward.value for s in at_size)
    width = max(s.reward.high - s.reward.low for s in at_size) / 2
    fit = min(s.means["train_reward_accuracy"] for s in at_size)
    lines.append(
        f"Held-out accuracies lie between {tables.share(low)} and {tables.share(high)} %, each "
        f"known to about "
        f"\N{PLUS-MINUS SIGN}{100 * width:.0f} points: differences between methods smaller than "
        f"that are not findings. "
        f"On pairs that were trained on the accuracy is at least {tables.share(fit)} %"
        + (": the optimisation itself works." if fit > 0.6 else ", so little was learnt there too.")
    )
    longer = study.data["longer_wins"]
    lines.append(
        f"Baselines on the same pairs: chance 50 %; <i>the longer answer wins</i> "
        f"{tables.share(longer['value'])} % [{tables.share(longer['low'])}, "
        f"{tables.share(longer['high'])}]."
    )
    falling = sum(s.means["chosen_drift"] < 0 for s in at_size)
    lines.append(
        f"In {falling} of {len(at_size)} combinations the chosen answers became <i>less</i> "
        f"likely on average while "
        "the margin between chosen and rejected was trained."
    )
    return lines


def _language_model_text(study: Study) -> str:
    facts = study.language_model
    mean = sum(facts["base"].values()) / len(facts["base"])
    place = "below" if mean < facts["trigram"] else "above"
    return (
        f"Held-out NLL of the base model against n-gram models of the same text "
        f"({facts['train_tokens']:,} training "
        f"tokens, {facts['heldout_tokens']:,} held-out tokens, the same tokens for all rows). It "
        f"is "
        f"{facts['unigram'] - mean:.2f} nats below the unigram and "
        f"{abs(facts['trigram'] - mean):.2f} nats {place} "
        "the interpolated trigram."
    )


def run_facts(study: Study) -> dict[str, str]:
    """What was run, how long, on what."""
    plan, timing, data = study.plan, study.timing, study.data
    training = plan.training
    sources = "; ".join(
        f"{name} {sides['train']} + {sides['heldout']}" for name, sides in data["sources"].items()
    )
    return {
        "Preset": plan.preset,
        "Cells": _cells_text(plan),
        "Pairs (train + held-out)": sources + "".join(f"; {note}" for note in data["notes"]),
        "Instruction tuning": f"{data['instruct_dialogues']} desirable dialogues of kto_en_demo",
        "Answers": f"cut to {training.answer_tokens} tokens; {data['heldout_scored']} held-out "
        f"pairs differ after that",
        "Alignment": f"Adam, {_epochs(training.align_epochs)}, batches of "
        f"{training.align_batch_pairs} pairs, peak "
        f"learning rate {training.align_learning_rate:g}, linear schedule, 10 % warm-up; the same "
        f"for all methods",
        "Losses": f"beta {training.beta:g}; DPO sigmoid; IPO on sums; KTO on unpaired labels, KL "
        f"from mismatched "
        f"pairs; CPO without reference, NLL weight {training.cpo_alpha:g}",
        "Start models": f"{_epochs(training.base_epochs)} of text, then {training.tune_epochs} of "
        f"SFT or instruction "
        "tuning, once per seed",
        "Wall time": f"{timing['wall_seconds']:.0f} s with {timing['jobs']} workers of one thread "
        f"each"
        + (
            f" ({timing['resumed']} tasks were taken over from an earlier run)"
            if timing["resumed"]
            else ""
        ),
        "Work": f"start models {timing['start_models_seconds']:.0f} s, cells "
        f"{timing['cells_seconds']:.0f} s "
        f"(slowest {timing['slowest_cell_seconds']:.1f} s), summed over workers",
        "Versions": ", ".join(f"{name} {value}" for name, value in study.versions.items()),
        "Configuration": study.fingerprint,
    }


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _cells_text(plan: Plan) -> str:
    return (
        f"{len(plan.cells)} = {len(plan.scenarios)} scenarios x {len(plan.methods)} methods x "
        f"sizes "
        f"{', '.join(map(str, plan.sizes))} x seeds {', '.join(map(str, plan.seeds))}"
    )


def _files_text(pngs: list[str] | None) -> str:
    beside = "Beside this page: results.csv (a row per cell), results.json (all numbers)"
    if pngs is None:
        return beside + ". No PNGs were written: matplotlib is not installed."
    return beside + ", " + ", ".join(pngs) + "."
