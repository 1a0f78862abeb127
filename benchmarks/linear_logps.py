"""Log-probabilities out of hidden states, without the logits, against TRL 1.16, PyTorch's
linear_cross_entropy, Liger 0.8.5 and cut-cross-entropy: time, memory, tokens.

    python benchmarks/linear_logps.py [--quick] [--only forward frozen ...] [--isa avx2] [--accept]

Numbers are checked against float64 before anything is timed. Targets bind at 1024 tokens x hidden
576 x vocabulary 49152; 512 x 2048 x 32768 is printed beside it. TRL runs at its fastest chunk size
here. "x GEMM" is time over one bare product of the same shape by the same OpenBLAS on 2 threads
into touched memory. Results are fresh memory, and inputs are warm. Writes
results/linear_logps.json and results/linear_logps.png; a run of some sections keeps what the file
has of the others, each record with its own date.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import common
from common import Peer, Target, Timing, best, measure

SECTIONS = ("gemm", "forward", "frozen", "trained", "bf16", "step", "tokens", "memory")
OPTIONS = common.arguments(__doc__.splitlines()[0], SECTIONS)

# Imported only now: clean_environment has put the process into the environment that they read.
import linear_peers as peers  # noqa: E402
import report as reporting  # noqa: E402
import torch  # noqa: E402
from linear_peers import Case, Step, backward, forward, peer  # noqa: E402

import prefopt  # noqa: E402

SHAPES = ((128, 64, 4096),) if OPTIONS.quick else ((1024, 576, 49152), (512, 2048, 32768))
TOKENS = (64, 256) if OPTIONS.quick else (256, 1024, 4096, 16384)
Records = list[dict[str, Any]]
GEMM: dict[str, float] = {}  # shape -> seconds of the bare product


def gemm_seconds(case: Case) -> float:
    """Seconds of the bare product, measured once a shape."""
    if case.shape not in GEMM:
        bare = [peers.openblas_gemm(case, OPTIONS.threads), peers.mkl_gemm(case)]
        timings = measure([each for each in bare if each is not None], OPTIONS.rounds)
        print(f"\n## gemm: {case.shape}\n{reporting.table(timings)}", flush=True)
        GEMM[case.shape] = timings[0].median
        MKL[case.shape] = timings[-1].median
    return GEMM[case.shape]


MKL: dict[str, float] = {}


def report(records: Records, section: str, case: Case, timings: list[Timing]) -> None:
    dtype = str(case.dtype).removeprefix("torch.")
    print(f"\n## {section}: {dtype} {case.shape}")
    print(reporting.table(timings))
    gemm = GEMM.get(case.shape)
    if gemm:
        print("x GEMM: " + ", ".join(f"{e.peer.name} {e.median / gemm:.2f}" for e in timings))
    records += [each.record(section=section, shape=case.shape, dtype=dtype) for each in timings]


def others(case: Case, wrap: Callable[[peers.LogProbs], Callable[[], Any]]) -> list[Peer]:
    chunk = peers.best_chunk(case, wrap)
    forms = {
        f"TRL, chunks of {chunk}": peers.trl(chunk),
        "torch, logits held": peers.torch_holding,
        "torch, chunked": peers.torch_chunked,
        "materialised, TRL": peers.materialised,
    }
    if find_spec("triton") is None:  # which cut-cross-entropy imports even where it compiles
        print("left out: cut-cross-entropy, as triton is not installed")
    else:
        forms["cut-cross-entropy, torch_compile"] = peers.cce
    return [peer(case, name, wrap(function)) for name, function in forms.items()]


def ratios(
    section: str, case: Case, timings: Sequence[Timing], mine: Timing, bound: float, binds: bool
) -> list[Target]:
    trl = best(timings, "TRL").median
    both = [best(timings, f"torch, {form}").median for form in ("logits held", "chunked")]
    return [
        Target(
            f"{section} {case.shape} over TRL: {mine.peer.name}",
            trl / mine.median,
            bound,
            binds=binds,
        ),
        Target(
            f"{section} {case.shape} over linear_cross_entropy's faster form: {mine.peer.name}",
            min(both) / mine.median,
            1.0,
            binds=binds,
        ),
    ]


def section_forward(records: Records, targets: list[Target]) -> None:
    for k, shape in enumerate(SHAPES):
        case = Case(*shape)
        gemm_seconds(case)
        timings = measure(
            [
                peer(case, "prefopt", forward(case, peers.ours())),
                peer(case, "prefopt NumPy", peers.numpy_forward(case)),
                peer(
                    case,
                    "prefopt, entropy, correct, mean_logit, lse2",
                    forward(case, peers.ours(stats=("entropy", "correct", "mean_logit", "lse2"))),
                ),
                *others(case, lambda f, case=case: forward(case, f)),
            ],
            OPTIONS.rounds,
        )
        report(records, "forward", case, timings)
        targets += ratios("forward", case, timings, timings[0], 1.2, k == 0)


def section_frozen(records: Records, targets: list[Target]) -> None:
    for k, shape in enumerate(SHAPES):
        case = Case(*shape)
        gemm_seconds(case)
        mine = peer(case, "prefopt", backward(case, peers.ours(), trained=False))
        rest = others(case, lambda f, case=case: backward(case, f, trained=False))
        timings = measure([mine, *rest], OPTIONS.rounds)
        report(records, "frozen", case, timings)
        targets += ratios("frozen", case, timings, timings[0], 1.7, k == 0)


def section_trained(records: Records, targets: list[Target]) -> None:
    for k, shape in enumerate(SHAPES):
        case = Case(*shape)
        gemm_seconds(case)
        kept = peers.ours(memory_limit=peers.GIB)
        mine = [
            peer(case, "prefopt, recomputed", backward(case, peers.ours(), trained=True)),
            peer(case, "prefopt, kept in 1 GiB", backward(case, kept, trained=True)),
        ]
        rest = others(case, lambda f, case=case: backward(case, f, trained=True))
        timings = measure([*mine, *rest], OPTIONS.rounds)
        report(records, "trained", case, timings)
        targets += ratios("trained", case, timings, timings[0], 1.3, k == 0)
        targets += ratios("trained", case, timings, timings[1], 1.6, k == 0)


def section_bf16(records: Records, targets: list[Target]) -> None:
    """TRL is timed at one chunk size, in fewer rounds: a run takes it many seconds."""
    case = Case(*SHAPES[0], torch.bfloat16)
    chunk = 32768 if case.vocab > 32768 else case.vocab
    few = min(OPTIONS.rounds, 3)
    timings = measure(
        [
            peer(case, "prefopt", backward(case, peers.ours(), trained=False)),
            peer(case, f"TRL, chunks of {chunk}", backward(case, peers.trl(chunk), trained=False)),
        ],
        few,
    )
    report(records, "bf16", case, timings)
    figure = timings[1].median / timings[0].median
    targets.append(Target(f"bf16 frozen {case.shape} over TRL", figure, 8))


def section_step(records: Records, targets: list[Target]) -> None:
    """A DPO step: policy forward and backward, reference forward."""
    width, vocab = SHAPES[0][1:]
    for unmasked in (1.0, 0.5):
        step = Step(width, vocab, unmasked)
        for trained in (True, False):
            timings = measure(step.peers(trained), OPTIONS.rounds)
            head = "trained" if trained else "frozen"
            shape = f"[{Step.SEQUENCES} x {Step.LENGTH}] x {width} x {vocab}"
            print(f"\n## step: {head} head, float32 {shape}, {unmasked:.0%} completion tokens")
            print(reporting.table(timings), flush=True)
            records += [
                each.record(section=f"step, {head}", shape=shape, dtype="float32")
                for each in timings
            ]
            mine = best(timings, "prefopt").median
            bounds = (2.5, 3.5) if trained else (3.5, 5.0)
            for name, bound in zip(("Liger", "materialised"), bounds, strict=True):
                targets.append(
                    Target(
                        f"DPO step, {head}, {unmasked:.0%} completion, over {name}",
                        best(timings, name).median / mine,
                        bound,
                        binds=unmasked == 0.5,
                    )
                )


def section_tokens(records: Records, targets: list[Target]) -> None:
    """Time against tokens, against the share of them that counts, and against the vocabulary."""
    few, width, vocab = SHAPES[0]
    line = []
    for tokens in TOKENS:
        case = Case(tokens, width, vocab)
        run = backward(case, peers.ours(), trained=False)
        timings = measure([peer(case, "prefopt", run)], min(OPTIONS.rounds, 3))
        report(records, "tokens", case, timings)
        line.append(timings[0].median / tokens)
    targets.append(
        Target(
            f"time a token at {TOKENS[-1]} tokens over {TOKENS[1]}",
            line[-1] / line[1],
            1.1,
            at_most=True,
            binds=False,
        )
    )
    case = Case(TOKENS[-2], width, vocab)
    whole = measure([peer(case, "prefopt", backward(case, peers.ours(), trained=False))], 3)[
        0
    ].median
    case.labels[::2] = -100
    half_run = backward(case, peers.ours(), trained=False)
    half = measure([Peer("prefopt, half masked", case.shape, half_run, unmasked=0.5)], 3)[0].median
    targets.append(
        Target("time with half of the labels ignored", half / whole, 0.55, "x", True, binds=False)
    )
    each = []
    for size in (vocab // 2, vocab):
        case = Case(few, width, size)
        run = backward(case, peers.ours(), trained=False)
        timings = measure([peer(case, "prefopt", run)], min(OPTIONS.rounds, 3))
        report(records, "vocabulary", case, timings)
        each.append(timings[0].median)
    targets.append(
        Target("time of half of the vocabulary", each[0] / each[1], 0.55, "x", True, binds=False)
    )


def section_memory(records: Records, targets: list[Target]) -> None:
    """Resident memory at its peak beyond inputs and outputs."""
    case = Case(*SHAPES[0])
    outputs = {
        "forward": 0,
        "frozen": case.hidden.nbytes,
        "trained": case.hidden.nbytes + case.weight.nbytes,
    }
    runs = [
        ("prefopt", peers.ours()),
        ("prefopt, memory_limit 1 GiB", peers.ours(memory_limit=peers.GIB)),
        ("TRL, chunks of 32768", peers.trl(min(32768, case.vocab))),
        ("torch, logits held", peers.torch_holding),
        ("torch, chunked", peers.torch_chunked),
        ("materialised, TRL", peers.materialised),
    ]
    if find_spec("triton") is not None:
        runs.append(("cut-cross-entropy, torch_compile", peers.cce))
    print(f"\n## memory beyond inputs and outputs: float32 {case.shape}")
    for section, size in outputs.items():
        for name, function in runs:
            run = (
                forward(case, function)
                if section == "forward"
                else backward(case, function, trained=section == "trained")
            )
            run()
            needed = reporting.peak_rss_beyond(run)
            beyond = None if needed is None else max(0, needed - size)
            text = "not measured here" if beyond is None else f"{beyond / 1e6:10.1f} MB"
            print(f"{section:8} {name:44} {text}", flush=True)
            records.append(
                {
                    "section": f"memory, {section}",
                    "shape": case.shape,
                    "dtype": "float32",
                    "name": name,
                    "layout": case.shape,
                    "unmasked": 1.0,
                    "peak_bytes": beyond,
                    "median_s": None,
                }
            )


def section_gemm(records: Records, targets: list[Target]) -> None:
    for shape in SHAPES:
        gemm_seconds(Case(*shape))


def with_earlier(records: Records, targets: list[Target]) -> tuple[Records, list[Target]]:
    """This run's, and of the sections that it left out what the results file has."""
    path = reporting.RESULTS / "linear_logps.json"
    if OPTIONS.quick or set(OPTIONS.sections) == set(SECTIONS) or not path.exists():
        return records, targets
    earlier = json.loads(path.read_text())
    for shape, seconds in earlier["machine"]["bare_gemm_s"].items():
        GEMM.setdefault(shape, seconds)
    made = {record["section"] for record in records}
    texts = {target.text for target in targets}
    kept = [each for each in earlier["records"] if each["section"] not in made]
    fields = Target.__dataclass_fields__
    old = [
        Target(**{key: each[key] for key in fields})
        for each in earlier["targets"]
        if each["text"] not in texts
    ]
    return kept + records, old + targets


def plot(records: Records, facts: dict[str, Any]) -> None:
    """Bars of the binding shape, and time against tokens."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    tokens, width, vocab = SHAPES[0]
    shape = f"[{tokens} x {width} x {vocab}]"
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for place, section in zip(axes.flat, ("forward", "frozen", "trained"), strict=False):
        chosen = [r for r in records if r["section"] == section and r["shape"] == shape]
        chosen.sort(key=lambda record: -record["median_s"])
        colors = ["tab:blue" if r["name"].startswith("prefopt") else "tab:gray" for r in chosen]
        values = [record["median_s"] * 1e3 for record in chosen]
        bars = place.barh([record["name"] for record in chosen], values, color=colors)
        place.bar_label(bars, fmt="%.0f ms", padding=3)
        if shape in GEMM:
            place.axvline(GEMM[shape] * 1e3, color="black", linestyle="--", linewidth=1)
        place.margins(x=0.2)
        place.set_title(f"{section} (dashed: one bare GEMM)")
    line = [
        (int(r["shape"][1:].split(" x ")[0]), r["median_s"])
        for r in records
        if r["section"] == "tokens"
    ]
    if line:
        axes[1, 1].plot(*zip(*line, strict=True), marker="o")
        axes[1, 1].set(
            xscale="log", yscale="log", xlabel="tokens", ylabel="seconds", title="frozen, by tokens"
        )
        axes[1, 1].grid(visible=True, which="both", alpha=0.25)
    figure.suptitle(
        f"float32 {shape}, {facts['threads']} threads; {facts['cpu']}, {facts['date'][:10]}"
    )
    name = "linear_logps.quick.png" if OPTIONS.quick else "linear_logps.png"
    path = reporting.RESULTS / name
    figure.savefig(path, dpi=120)
    print(f"plot: {os.path.relpath(path)}")


RUN = {
    "gemm": section_gemm,
    "forward": section_forward,
    "frozen": section_frozen,
    "trained": section_trained,
    "bf16": section_bf16,
    "step": section_step,
    "tokens": section_tokens,
    "memory": section_memory,
}


def main() -> None:
    torch.set_num_threads(OPTIONS.threads)
    prefopt.set_num_threads(OPTIONS.threads)
    facts = reporting.machine(OPTIONS)
    print(reporting.describe(facts))
    records: Records = []
    targets: list[Target] = []
    for section in OPTIONS.sections:
        RUN[section](records, targets)
    for shape, seconds in GEMM.items():
        targets.append(
            Target(
                f"bare GEMM {shape}: torch.mm over OpenBLAS", MKL[shape] / seconds, 1, binds=False
            )
        )
    print("\n## targets" + (" (a quick run: smaller, none binds)" if OPTIONS.quick else ""))
    for target in targets:
        print(target.line())
    for record in records:
        record["date"] = facts["date"]
    records, targets = with_earlier(records, targets)
    facts["bare_gemm_s"] = GEMM
    path = reporting.write("linear_logps", OPTIONS, facts, records, targets)
    print(f"\nresults: {os.path.relpath(path)}")
    if {"forward", "frozen", "trained"} <= {record["section"] for record in records}:
        plot(records, facts)


if __name__ == "__main__":
    main()
