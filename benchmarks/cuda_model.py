"""A model, not a measurement: the least time that each CUDA operation can take on a GPU by its data
sheet, beside what others have published.

    python benchmarks/cuda_model.py [--json out.json]

An operation has bytes that have to move, floating-point operations of its products, and instructions
that its kernels issue. Each over the data sheet's rate is a bound in milliseconds; the largest of a
kernel's bounds is its time, and the times of kernels that follow each other add up. If products and
the kernels between them ran beside each other instead, the longer of the two sums would remain: the
last column says what that would save on an H100, at most. Instructions an element are those of the
inner loops on sm_90 as tools/cuda_static.py lists them, every branch counted. What the model leaves
out makes real times longer: launches, clocks under load, products that do not reach the tensor
cores' peak, caches that miss.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

TITLE = "MODEL from data sheets, not measured: least milliseconds"
TILE = 2048  # rows and columns of a tile of the linear operation: half an H100's cache


class Gpu(NamedTuple):
    """Data sheet: memory GB/s, dense bfloat16 TFLOP/s, multiprocessors, boost clock GHz."""

    name: str
    gb_s: float
    tflop_s: float
    processors: int
    ghz: float

    @property
    def issues_s(self) -> float:
        """Thread instructions a second: four warps of 32 a cycle and multiprocessor."""
        return self.processors * 4 * 32 * self.ghz * 1e9


GPUS = (
    Gpu("A100", 2039, 312, 108, 1.41),
    Gpu("H100", 3350, 989, 132, 1.83),
    Gpu("H200", 4800, 989, 132, 1.83),
    Gpu("B200", 8000, 2250, 148, 1.85),
    Gpu("L4", 300, 121, 58, 2.04),
    Gpu("RTX 4090", 1008, 165, 128, 2.52),
)


class Shape(NamedTuple):
    """bfloat16 throughout."""

    tokens: int
    size: int
    vocab: int


SHAPES = (Shape(8192, 4096, 151936), Shape(1024, 576, 49152))


class Kernel(NamedTuple):
    """What one kernel, or one kind of product, needs for the whole operation."""

    name: str
    bytes: float = 0.0  # through the memory
    flops: float = 0.0
    instructions: float = 0.0

    def bounds(self, gpu: Gpu) -> dict[str, float]:
        """Milliseconds by what limits."""
        return {
            "memory": self.bytes / gpu.gb_s / 1e6,
            "products": self.flops / gpu.tflop_s / 1e9,
            "issue": self.instructions / gpu.issues_s * 1e3,
        }


def _products(shape: Shape, passes: int) -> list[Kernel]:
    """x, and x's gradient by weight and by hidden; float32 sums are read and written each time."""
    tokens, size, vocab = shape
    flops = 2.0 * tokens * size * vocab
    rows, columns = math.ceil(tokens / TILE), math.ceil(vocab / TILE)
    head, hidden = 2.0 * vocab * size, 2.0 * tokens * size
    logits = Kernel("x", rows * head + columns * hidden, flops)
    by_hidden = Kernel("sums by hidden", rows * head + columns * 5 * hidden, flops)
    by_weight = Kernel("sums by weight", (4 * rows - 1) * head + columns * hidden, flops)
    return [logits, by_hidden, by_weight][:passes]


def operations(shape: Shape) -> dict[str, list[Kernel]]:
    """Tiles of x stay in the second-level cache, so that their kernels issue and move nothing."""
    elements = float(shape.tokens) * shape.vocab
    fold, weigh, slopes = (
        Kernel(name, instructions=each * elements)
        for name, each in (("fold", 8.2), ("weigh", 10.3), ("slopes", 26.8))
    )
    forward = [*_products(shape, 1), fold]
    return {
        "token_logps": [Kernel("fold", 2 * elements, 0, 5.9 * elements)],
        "token_logps, every statistic": [Kernel("fold", 2 * elements, 0, 10.4 * elements)],
        "token_logps_grad": [Kernel("grad", 4 * elements, 0, 13.5 * elements)],
        "linear, forward": forward,
        "linear, frozen head": [*_products(shape, 2), fold, weigh],
        "linear, trained head": [*forward, *_products(shape, 3), slopes],
    }


# trl#7244, on an H100: 8192 tokens, vocabulary 151936; milliseconds.
PUBLISHED = {
    "torch selective_log_softmax": 3.50,
    "torch entropy": 9.33,
    "a fused kernel of 40 lines": 0.89,
    "linear forward + backward, logits held": 59.0,
    "linear forward + backward, chunked": 167.0,
    "linear forward + backward, Liger": 192.0,
    "the bare products": 42.0,
}


def model() -> list[dict[str, Any]]:
    """A record for every shape, operation and GPU."""
    records = []
    for shape in SHAPES:
        for name, kernels in operations(shape).items():
            for gpu in GPUS:
                bounds = [kernel.bounds(gpu) for kernel in kernels]
                worst = [max(each, key=each.__getitem__) for each in bounds]
                times = [each[which] for each, which in zip(bounds, worst, strict=True)]
                longest = times.index(max(times))
                products = sum(t for t, k in zip(times, kernels, strict=True) if k.flops)
                overlapped = max(products, sum(times) - products)
                records.append(
                    {
                        "model": True,
                        **shape._asdict(),
                        "operation": name,
                        "gpu": gpu.name,
                        "milliseconds": sum(times),
                        "overlapped_milliseconds": overlapped,
                        "limited_by": f"{worst[longest]} of {kernels[longest].name}",
                    }
                )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    records = model()
    for shape in SHAPES:
        print(f"\n{TITLE}\n{shape.tokens} tokens x {shape.size} x {shape.vocab}, bfloat16")
        print(
            f"{'':<30}" + "".join(f"{gpu.name:>10}" for gpu in GPUS) + "  limit on an H100, overlap"
        )
        for name in operations(shape):
            row = [r for r in records if r["operation"] == name and r["vocab"] == shape.vocab]
            h100 = next(r for r in row if r["gpu"] == "H100")
            saved = 1 - h100["overlapped_milliseconds"] / h100["milliseconds"]
            times = "".join(f"{r['milliseconds']:>10.2f}" for r in row)
            print(f"{name:<30}{times}  {h100['limited_by']}, {saved:.0%}")
    print("\nPublished, measured by others on an H100 (trl#7244): 8192 tokens, vocabulary 151936")
    for name, milliseconds in PUBLISHED.items():
        print(f"{name:<40}{milliseconds:>8.2f} ms")
    if options.json:
        options.json.write_text(json.dumps({"model": TITLE, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
