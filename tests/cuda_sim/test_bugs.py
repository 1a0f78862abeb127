"""Each injected fault is found, by the check that should find it, which names its lines; without
the fault the same kernel passes the same check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.cuda_sim

BUGS = Path(__file__).parent / "bugs"

RACE = r"ThreadSanitizer: data race"
WRONG = r"wrong result"
DEADLOCK = r"deadlock in block"
ALIGNMENT = r"misaligned"
# The checks (variants) that find each, and what they say.
FOUND = {
    "missing_barrier_raw": {"source": WRONG, "source-tsan": RACE, "ptx-90-tsan": RACE},
    "missing_barrier_war": {"source-tsan": RACE, "ptx-90-tsan": RACE},
    "missing_syncwarp": {"source": WRONG, "source-tsan": RACE, "ptx-90-tsan": RACE},
    "wrong_shuffle_mask": {"source": DEADLOCK, "ptx-90-asan": DEADLOCK},
    "lane_outside_mask": {"source": "does not name", "ptx-90-asan": "does not name"},
    "divergent_shuffle": {"source": "divergent warp operation"},
    "divergent_barrier": {"source": "divergent barrier", "ptx-90-asan": DEADLOCK},
    "barrier_after_exit": {"source": DEADLOCK, "ptx-90-asan": DEADLOCK},
    "global_out_of_bounds": {
        "source-asan": "heap-buffer-overflow",
        "ptx-90-asan": "heap-buffer-overflow",
    },
    "shared_out_of_bounds": {
        "source-asan": "out of bounds",
        "ptx-90-asan": "shared access out of bounds",
    },
    "misaligned_vector": {"source-asan": ALIGNMENT, "ptx-90-asan": ALIGNMENT},
    "misaligned_hinted_load": {"source": ALIGNMENT, "ptx-90-asan": ALIGNMENT},
    "uninitialised_shared": {"source": WRONG},
    "cross_block_race": {"source-tsan-blocks": RACE, "ptx-90-tsan-blocks": RACE},
    "missing_fence": {"source-tsan-blocks": RACE, "ptx-90-tsan-blocks": RACE},
    "missing_second_fence": {"source-tsan-blocks": RACE, "ptx-90-tsan-blocks": RACE},
    "fence_before_write": {"source-tsan-blocks": RACE, "ptx-90-tsan-blocks": RACE},
    "wrong_leading_dimension": {"source": "ldc 2 is less than the 3 rows of C"},
}
CASES = [(bug, variant) for bug, variants in FOUND.items() for variant in variants]


def marked_lines(bug: str) -> list[int]:
    """The lines of its source that bear the comment "found"."""
    text = (BUGS / f"{bug}.cu").read_text(encoding="utf-8")
    return [n for n, line in enumerate(text.split("\n"), 1) if line.endswith("// found")]


def test_every_bug_has_a_finder() -> None:
    names = {path.stem for path in BUGS.glob("*.cu")} - {"all"}
    assert names == {*FOUND, "order_of_arrival"}


@pytest.mark.parametrize(("bug", "variant"), CASES)
def test_bug_is_found(run_sim, bug: str, variant: str) -> None:
    result = run_sim(variant, "bugs", (bug,), sources="all.cu")
    said = result.stdout + result.stderr
    assert result.returncode != 0, said
    assert re.search(FOUND[bug][variant], said), said
    if FOUND[bug][variant] == WRONG:
        return  # numbers name no line
    named = [f"{bug}.cu:{line}" in said for line in marked_lines(bug)]
    # In PTX a barrier is a barrier, from whatever line: the threads at one of them meet the others.
    enough = any if variant.startswith("ptx") and FOUND[bug][variant] == DEADLOCK else all
    assert enough(named), said


@pytest.mark.parametrize(("bug", "variant"), CASES)
def test_the_kernel_without_its_bug_is_clean(run_sim, bug: str, variant: str) -> None:
    result = run_sim(variant, "bugs", (bug, "fixed"), sources="all.cu")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""


def test_a_result_that_depends_on_the_order_of_blocks_differs(run_sim) -> None:
    """Right in one order, wrong in another: why every numeric test runs in all."""
    codes = [
        run_sim("source", "bugs", ("order_of_arrival",), "all.cu", CUDA_SIM_ORDER=order).returncode
        for order in ("forward", "reverse", "shuffled:1")
    ]
    assert codes == [0, 1, 1]
    fixed = ("order_of_arrival", "fixed")
    for order in ("forward", "reverse", "shuffled:1"):
        assert run_sim("source", "bugs", fixed, "all.cu", CUDA_SIM_ORDER=order).returncode == 0
