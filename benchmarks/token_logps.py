"""Token log-probabilities against TRL 1.16, torch eager and torch.compile: time, memory, threads,
sizes.

    python benchmarks/token_logps.py [--quick] [--only forward backward ...] [--isa avx2] [--accept]

Numbers are checked against float64 before anything is timed. Targets bind at [1024 x 151936], 2
threads; every logit buffer is far larger than the cache and its pages are touched ("warm") unless
the table says otherwise; all rows count unless it says otherwise. Writes results/token_logps.json
and results/token_logps.png.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import common
from common import Peer, Target, Timing, best, measure

SECTIONS = ("forward", "bf16", "backward", "small", "threads", "shapes", "sweep", "memory")
SWEEP = (1000, 8192, 32000, 50257, 128256, 151936, 262144)
OPTIONS = common.arguments(__doc__.splitlines()[0], SECTIONS)

# Imported only now: clean_environment has put the process into the environment that they read.
import report as reporting  # noqa: E402
import torch  # noqa: E402
from token_peers import (  # noqa: E402
    COMPILED_FORMS,
    TRAINER,
    Case,
    backward,
    bandwidth,
    compiled,
    eager,
    first_touch,
    huge_touch,
    in_place,
    ours,
    read_write,
    trl,
)

import prefopt  # noqa: E402
import prefopt.torch as prefopt_torch  # noqa: E402

ROWS, VOCAB = (128 if OPTIONS.quick else 1024), 151936
# Both forms were the faster one somewhere; a quick run compiles one.
FORMS = ("logsumexp",) if OPTIONS.quick else tuple(COMPILED_FORMS)
FULL = "prefopt NumPy: logps, lse, entropy, correct"
Records = list[dict[str, Any]]


def report(records: Records, section: str, case: Case, timings: list[Timing]) -> None:
    """Prints one comparison and keeps it for the JSON file."""
    shape, dtype = f"[{case.rows} x {case.vocab}]", str(case.dtype).removeprefix("torch.")
    sums = [each for each in timings if each.peer.name.startswith("torch.sum")]
    print(f"\n## {section}: {dtype} {shape}, {case.bytes / 1e6:.0f} MB of logits")
    print(reporting.table(timings, sums[0] if sums else None), flush=True)
    records += [each.record(section=section, shape=shape, dtype=dtype) for each in timings]


def full(timings: list[Timing]) -> Timing:
    """Ours with every row counted."""
    return next(each for each in timings if each.peer.name == FULL and each.peer.unmasked == 1)


def forward(records: Records, targets: list[Target]) -> None:
    case = Case(ROWS, VOCAB)
    taken = prefopt._core.isa()
    rows = [row for row in prefopt.isas() if row not in (taken, "scalar") and not OPTIONS.isa]
    peers = [*ours(case, rows), *trl(case), *eager(case), *compiled(case, FORMS)]
    timings = measure(peers, OPTIONS.rounds)
    report(records, "forward", case, timings)
    mine = full(timings).median
    alone, both = best(timings, "TRL logps"), best(timings, "TRL logps + entropy")
    trainer = min(
        e.median for e in timings if e.peer.name == "TRL logps" and e.peer.layout == TRAINER
    )
    trainer_both = best(timings, "TRL logps + entropy", layout=TRAINER).median
    compiled_best = best(timings, "torch.compile").median
    read = best(timings, "torch.sum").median

    def ratio(text: str, peer: float, bound: float, binds: bool = True) -> Target:
        return Target(f"fp32 over {text}", peer / mine, bound, binds=binds, floor=peer / read)

    layouts = f"fastest layout {alone.peer.layout}", f"trainer's layout {TRAINER}"
    targets += [
        ratio(f"TRL log-probs alone, {layouts[0]}", alone.median, 5),
        ratio(f"TRL log-probs alone, {layouts[1]}", trainer, 8),
        ratio(f"TRL log-probs + entropy, fastest layout {both.peer.layout}", both.median, 25),
        ratio(f"TRL log-probs + entropy, {layouts[1]}", trainer_both, 25, binds=False),
        ratio("torch.compile of log-probs alone", compiled_best, 2.8),
        Target("fp32 time over torch.sum", mine / read, 1.7, at_most=True),
    ]


def bf16(records: Records, targets: list[Target]) -> None:
    case = Case(ROWS, VOCAB, torch.bfloat16)
    timings = measure(
        [*ours(case), *trl(case), *eager(case), *compiled(case, FORMS)], OPTIONS.rounds
    )
    report(records, "bf16", case, timings)
    alone = best(timings, "TRL logps")
    text = f"bf16 over TRL log-probs alone, fastest layout {alone.peer.layout}"
    floor = alone.median / best(timings, "torch.sum").median
    targets.append(Target(text, alone.median / full(timings).median, 2.7, floor=floor))


def forward_backward(records: Records, targets: list[Target]) -> None:
    case = Case(ROWS, VOCAB)
    limits = [
        bandwidth(case),
        read_write(case),
        first_touch(case, OPTIONS.threads),
        huge_touch(case),
    ]
    peers = [in_place(case), *limits, *backward(case, FORMS)]
    timings = measure(peers, OPTIONS.rounds)
    report(records, "backward", case, timings)
    numpy, tensor = best(timings, "prefopt NumPy").median, best(timings, "prefopt.torch").median
    compile_, touch = best(timings, "torch.compile").median, best(timings, "allocate and").median
    fastest = best(timings, "TRL")
    read, both = best(timings, "torch.sum").median, best(timings, "torch.mul_").median
    huge = best(timings, "allocate, advise").median
    text = "(b) TRL fwd+bwd at its fastest layout {} over prefopt.torch"
    targets += [
        Target(
            "(a) torch.compile fwd+bwd less first touch, over NumPy out=logits",
            (compile_ - touch) / numpy,
            9,
            floor=(compile_ - touch) / (read + both),
        ),
        Target(
            "(b) torch.compile fwd+bwd over prefopt.torch, everything included",
            compile_ / tensor,
            5,
            floor=compile_ / (read + huge),
        ),
        Target(
            text.format(fastest.peer.layout),
            fastest.median / tensor,
            7,
            floor=fastest.median / (read + huge),
        ),
    ]


def small(records: Records, targets: list[Target]) -> None:
    case = Case(8, 8)
    case.logits, case.labels, case.rows = case.logits[:1], case.labels[:1], 1
    x, y = case.logits.numpy(), case.labels.numpy()
    leaf = case.logits.detach().clone().requires_grad_()
    from trl.trainer.utils import selective_log_softmax

    def run_backward(function: Callable[[Any, Any], Any]) -> Callable[[], None]:
        return lambda: function(leaf, case.labels).sum().backward()

    peers = [
        Peer("prefopt NumPy", "[N, V]", lambda: prefopt.token_logps(x, y)),
        Peer(
            "prefopt.torch", "[N, V]", lambda: prefopt_torch.token_logps(case.logits, case.labels)
        ),
        Peer(
            "prefopt.torch, autograd",
            "[N, V]",
            lambda: prefopt_torch.token_logps(leaf, case.labels),
        ),
        Peer("TRL logps", "[N, V]", lambda: selective_log_softmax(case.logits, case.labels)),
        Peer("TRL logps, autograd", "[N, V]", lambda: selective_log_softmax(leaf, case.labels)),
        Peer(
            "prefopt.torch fwd+bwd",
            "[N, V]",
            run_backward(lambda a, b: prefopt_torch.token_logps(a, b).logps),
        ),
        Peer("TRL logps fwd+bwd", "[N, V]", run_backward(selective_log_softmax)),
    ]
    timings = measure(peers, max(9, OPTIONS.rounds))
    report(records, "small", case, timings)
    by_name = {each.peer.name: each.median * 1e6 for each in timings}
    targets += [
        Target("median NumPy call on [1 x 8]", by_name["prefopt NumPy"], 3, " us", at_most=True),
        Target(
            "the same through prefopt.torch", by_name["prefopt.torch"], 3, " us", True, binds=False
        ),
    ]


def threads(records: Records, targets: list[Target]) -> None:
    case = Case(ROWS, VOCAB)

    def on(peer: Peer, count: int) -> Peer:
        def use() -> None:
            prefopt.set_num_threads(count)
            torch.set_num_threads(count)

        name = f"{peer.name.partition(':')[0]}, {count} thread{'s' * (count > 1)}"
        return replace(peer, name=name, before=use)

    each = (ours(case)[0], bandwidth(case))
    timings = measure([on(peer, count) for peer in each for count in (1, 2)], OPTIONS.rounds)
    prefopt.set_num_threads(OPTIONS.threads)
    torch.set_num_threads(OPTIONS.threads)
    report(records, "threads", case, timings)
    one, two, sum_one, sum_two = (timing.median for timing in timings)
    targets.append(Target("1 -> 2 threads", one / two, 1.7, floor=one / sum_two))
    targets.append(Target("torch.sum 1 -> 2 threads", sum_one / sum_two, 1.7, binds=False))


def shapes(records: Records, targets: list[Target]) -> None:
    for rows, vocab in ((512 if OPTIONS.quick else 4096, 49152), (8, 1000)):
        case = Case(rows, vocab)
        peers = [*ours(case), *trl(case), *eager(case), *compiled(case, FORMS)]
        report(records, "shapes", case, measure(peers, OPTIONS.rounds))


def sweep(records: Records, targets: list[Target]) -> None:
    rows, sizes = (64, SWEEP[:4:2]) if OPTIONS.quick else (512, SWEEP)
    for vocab in sizes:
        case = Case(rows, vocab)
        peers = [
            each for each in ours(case) if each.name.endswith("correct") and each.unmasked == 1
        ]
        peers += [each for each in trl(case) if each.layout == TRAINER]
        peers.append(bandwidth(case))
        if not OPTIONS.quick:
            peers += compiled(case, FORMS)
        report(records, "sweep", case, measure(peers, OPTIONS.rounds))


def memory(records: Records, targets: list[Target]) -> None:
    """Resident memory at its peak, beyond the inputs and what the process held before."""
    case = Case(ROWS, VOCAB)
    forms = ("log_softmax",)
    peers = [*ours(case)[:1], *trl(case), *eager(case)[:2], *backward(case, forms)]
    print(f"\n## memory: float32 [{case.rows} x {case.vocab}], {case.bytes / 1e6:.0f} MB of logits")
    for peer in peers:
        peer.run()
        needed = reporting.peak_rss_beyond(peer.run)
        text = "not measured here" if needed is None else f"{needed / 1e6:10.1f} MB"
        print(f"{peer.name:44} {peer.layout:16} {text}")
        records.append(
            {
                "section": "memory",
                "shape": f"[{case.rows} x {case.vocab}]",
                "dtype": "float32",
                "name": peer.name,
                "layout": peer.layout,
                "unmasked": 1.0,
                "peak_bytes": needed,
                "median_s": None,
            }
        )


def plot(records: Records, facts: dict[str, Any]) -> None:
    """Time against size, with the bandwidth line, from the sweep."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    points: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record["section"] == "sweep":
            label = record["name"] + (f" {TRAINER}" if record["name"].startswith("TRL") else "")
            points.setdefault(label, []).append(
                (record["read_bytes"] / 1e6, record["median_s"] * 1e3)
            )
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for label, line in sorted(points.items(), key=lambda item: -item[1][-1][1]):
        ours_, limit = label.startswith("prefopt"), label.startswith("torch.sum")
        style: dict[str, Any] = {"color": "black", "linestyle": "--"} if limit else {"marker": "o"}
        axes.plot(
            *zip(*sorted(line), strict=True), label=label, linewidth=2.5 if ours_ else 1.2, **style
        )
    axes.set(xscale="log", yscale="log", xlabel="logits, MB", ylabel="time, ms (median)")
    axes.set_title(
        f"Token log-probabilities, float32, {facts['threads']} threads, "
        "all rows unmasked, warm pages\n"
        f"{facts['cpu']}, {facts['date'][:10]}"
    )
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    path = reporting.RESULTS / ("token_logps.quick.png" if OPTIONS.quick else "token_logps.png")
    figure.savefig(path, dpi=120)
    print(f"plot: {os.path.relpath(path)}")


RUN = {
    "forward": forward,
    "bf16": bf16,
    "backward": forward_backward,
    "small": small,
    "threads": threads,
    "shapes": shapes,
    "sweep": sweep,
    "memory": memory,
}


def main() -> None:
    torch.set_num_threads(OPTIONS.threads)
    prefopt.set_num_threads(OPTIONS.threads)
    if OPTIONS.isa == "avx2":
        import torch._inductor.config as inductor

        inductor.cpp.simdlen = 256
    facts = reporting.machine(OPTIONS)
    print(reporting.describe(facts))
    records: Records = []
    targets: list[Target] = []
    for section in OPTIONS.sections:
        RUN[section](records, targets)
    print(
        f"\n## targets at [1024 x {VOCAB}]"
        + (" (a quick run: smaller, none binds)" if OPTIONS.quick else "")
    )
    for target in targets:
        print(target.line())
    path = reporting.write("token_logps", OPTIONS, facts, records, targets)
    print(f"\nresults: {os.path.relpath(path)}")
    if "sweep" in OPTIONS.sections:
        plot(records, facts)


if __name__ == "__main__":
    main()
