"""The command line of the study."""

from __future__ import annotations

import argparse
import os
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from prefopt._doctor import chosen_isa, usable_cpus

from .atomic import write_json, write_text
from .bpe import Bpe, load_merges
from .config import PRESETS, SCENARIOS, Plan, fingerprint
from .corpus import base_text, pair_tokens, sample_pair
from .data import MERGES_FILE, StudyData, load_shipped, load_user_file
from .errors import StudyError
from .figures import figures
from .methods import METHODS
from .png import write_pngs
from .progress import progress_for
from .report import report_html
from .results import Study, as_json, collect, csv_text
from .runner import WorkerFailed, run_tasks, tasks_of
from .tables import share
from .tokens import Encoded, encode, encoded_digest, load_encoded, save_encoded

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
MOST_JOBS = 8


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    result = argparse.ArgumentParser(
        prog="python -m prefopt study",
        description="Train and compare DPO, IPO, KTO and CPO on real preference pairs with a small "
        "language model, in three scenarios and over training-set sizes; writes results.csv, "
        "results.json, report.html and PNGs.",
        epilog="A run that was stopped goes on when the same command is given again. Exit codes: "
        "0 done, 1 a worker failed, 2 bad input, 130 interrupted.",
    )
    add = result.add_argument
    add(
        "--preset",
        choices=tuple(PRESETS),
        default="quick",
        help="quick: about a minute on 2 cores; full: about half an hour, a larger model, more sizes "
        "and seeds (default: %(default)s)",
    )
    methods = ",".join(METHODS)
    add("--methods", type=_names(METHODS), metavar="LIST", help=f"of {methods} (default: all)")
    add(
        "--scenarios",
        type=_names(SCENARIOS),
        metavar="LIST",
        help="of sft (SFT then align), base (align without SFT), instruct (align an "
        "instruction-tuned model) (default: all)",
    )
    add("--sizes", type=_numbers(1), metavar="LIST", help="training pairs, such as 50,200")
    add("--seeds", type=_numbers(0), metavar="LIST", help="seeds, such as 0,1,2")
    add("--beta", type=_positive, help="beta of all losses (default: 0.1)")
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="preference pairs in place of the shipped ones: JSON or JSONL; TRL (standard or "
        "conversational, with or without prompt), ShareGPT, Alpaca or HH-RLHF",
    )
    add(
        "--skip-bad-rows",
        action="store_true",
        help="leave out rows of --data that are no pair (default: stop at the first)",
    )
    add(
        "--out",
        type=Path,
        default=Path("prefopt-study"),
        help="folder to write to (default: %(default)s)",
    )
    add(
        "--jobs",
        type=_count,
        default=None,
        help=f"worker processes (default: one a core, at most {MOST_JOBS}); the results do not "
        "depend on it",
    )
    return result


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(
            dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip())
        )
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'} given; choose of {', '.join(known)}"
            )
        return names

    return parse


def _numbers(least: int) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        try:
            values = tuple(sorted({int(field) for field in text.split(",") if field.strip()}))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected whole numbers with commas between, got {text!r}"
            ) from None
        if not values or values[0] < least:
            raise argparse.ArgumentTypeError(f"expected numbers >= {least}, got {text!r}")
        return values

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")
    return value


def _count(text: str) -> int:
    return _numbers(1)(text)[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, report; errors of the input become one line and exit code 2."""
    options = parser().parse_args(argv)
    try:
        return _run(options)
    except StudyError as error:
        print(f"prefopt study: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:  # a full disk, a folder in the place of results.csv
        where = f"{error.filename}: " if error.filename else ""
        print(f"prefopt study: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_USAGE
    except WorkerFailed as error:
        print(f"prefopt study: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nprefopt study: stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED


def plan_of(options: argparse.Namespace) -> Plan:
    """Preset and options together."""
    preset = PRESETS[options.preset]
    training = (
        preset.training if options.beta is None else replace(preset.training, beta=options.beta)
    )
    return Plan(
        options.preset,
        training,
        options.scenarios or SCENARIOS,
        options.methods or METHODS,
        options.sizes or preset.sizes,
        options.seeds or preset.seeds,
    )


def _run(options: argparse.Namespace) -> int:
    began = time.perf_counter()
    problem = chosen_isa()[1]
    if problem is not None:
        raise StudyError(problem)
    plan = plan_of(options)
    data = load_user_file(options.data, options.skip_bad_rows) if options.data else load_shipped()
    _make_folder(options.out / "cache")
    token_file, encoded = _tokens(options.out / "cache", data)
    training = plan.training
    train = pair_tokens(encoded.train, training.model.context, training.answer_tokens)
    heldout = pair_tokens(encoded.heldout, training.model.context, training.answer_tokens)
    if not len(train) or not len(heldout):
        raise StudyError(
            f"{data.name}: all answers are equal in their first {training.answer_tokens} tokens"
        )
    plan = plan.fit_to(len(train))
    folder = options.out / "runs" / fingerprint(training, data.digest())
    _make_folder(folder / "cells")
    write_json(
        folder / "config.json",
        {"training": asdict(training), "data": data.name, "digest": data.digest()},
    )
    jobs = options.jobs or min(MOST_JOBS, usable_cpus())
    answer_tokens = (train.chosen.tokens + train.rejected.tokens) / (2 * len(train))
    base_tokens = base_text(encoded, 1, training.base_text_tokens).tokens
    tasks = tasks_of(plan, folder, base_tokens, answer_tokens)
    progress = progress_for()
    try:
        resumed = run_tasks(tasks, folder, token_file, training, jobs, progress)
    finally:
        progress.close()
    timing = {
        "wall_seconds": time.perf_counter() - began,
        "jobs": jobs,
        "resumed": resumed,
        "tasks": len(tasks),
    }
    study = collect(plan, folder, data, heldout.whole_lengths, timing)
    drawn = figures(study)
    write_text(options.out / "results.csv", csv_text(study))
    write_json(options.out / "results.json", as_json(study))
    pngs = write_pngs(drawn, options.out)
    shown = data.heldout[heldout.rows[sample_pair(encoded.heldout, heldout)]]
    prompt = next((text for role, text in reversed(shown.prompt) if role == "user"), "")
    write_text(options.out / "report.html", report_html(study, drawn, prompt, pngs))
    _print_end(study, options.out, pngs)
    return EXIT_OK


def _make_folder(path: Path) -> None:
    """Create it and prove that files can be made in it."""
    probe = path / f".probe-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StudyError(f"--out: {path} cannot be written ({error.strerror or error})") from None


def _tokens(cache: Path, data: StudyData) -> tuple[Path, Encoded]:
    """The encoded data, from the cache where it is there."""
    path = cache / f"tokens-{encoded_digest(data, MERGES_FILE)}.npz"
    if path.exists():
        with suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):  # made again
            return path, load_encoded(path)
    encoded = encode(Bpe(load_merges(MERGES_FILE)), data)
    save_encoded(path, encoded)
    return path, encoded


def _print_end(study: Study, out: Path, pngs: list[str] | None) -> None:
    """The result in a few lines, and where the rest is."""
    facts = study.language_model
    base = ", ".join(f"{nll:.3f}" for nll in facts["base"].values())
    print(
        f"base model, held-out NLL {base} nats a token (unigram {facts['unigram']:.3f}, "
        f"interpolated trigram {facts['trigram']:.3f})"
    )
    size = max(study.plan.sizes)
    longer = study.data["longer_wins"]["value"]
    print(
        f"held-out accuracy of the implicit reward after {size} pairs, % "
        f"(chance 50, longer answer wins {share(longer)})"
    )
    for scenario in study.plan.scenarios:
        cells = []
        for method in study.plan.methods:
            found = study.summary(scenario, method, size).reward
            note = "" if found.verdict == "above chance" else f" {found.verdict}"
            bounds = f"[{share(found.low)}, {share(found.high)}]"
            text = f"{method.upper()} {share(found.value)} {bounds}{note}"
            cells.append(text)
        print(f"  {scenario:9s}" + "   ".join(cells))
    files = ["report.html", "results.csv", "results.json", *(pngs or [])]
    print(f"{study.timing['wall_seconds']:.0f} s; wrote {', '.join(files)} in {out}")
    if pngs is None:
        print(
            "no PNGs: matplotlib is not installed (pip install 'prefopt[study]'); "
            "report.html has the plots"
        )
