"""What each CUDA kernel may cost: read by tools/cuda_static.py.

A kernel that no row names is held to the default: no stack, no loop that loads less than 128 bits at
a time.
Issued instructions an element that still leave memory the bottleneck for one read of a bfloat16 (data
sheets: bytes a second over instructions a second): A100 25, H100 17.7, B200 8.8.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Budget:
    kernel: str  # regular expression on the demangled name, without parameters
    threads: int = 256  # of a block, for the occupancy
    narrow_loops: int = 0  # loops of heads and tails, which load less than 128 bits
    stack_bytes: int = 0  # of a thread; never within a loop of 128-bit loads
    element_bytes: int = 2
    double_precision: bool = False  # in loops of 128-bit loads
    # Instructions an element of the loop that loads most, by architecture (75, 80, ...).
    instructions: dict[int, float] = field(default_factory=dict)


_BANDWIDTH = {80: 25.0, 90: 17.0}  # of a forward's loop, for a bfloat16; a float has twice as long

# The first row that matches counts.
BUDGETS = (
    # The one narrow loop looks for the maximum's first place, in the chunk that has it.
    Budget(r"pfo::fold_rows<double, .*>", narrow_loops=1, element_bytes=8, double_precision=True),
    Budget(
        r"pfo::fold_rows<float, .*>",
        narrow_loops=1,
        element_bytes=4,
        instructions={sm: 2 * limit for sm, limit in _BANDWIDTH.items()},
    ),
    Budget(
        r"pfo::fold_rows<.*, 2, 256>",
        narrow_loops=1,
        stack_bytes=8,  # two registers on sm_100, outside of its loops
        instructions=_BANDWIDTH,
    ),
    Budget(r"pfo::fold_rows<.*>", narrow_loops=1, instructions=_BANDWIDTH),
    # A thread a row: over the parts of the row, in double precision.
    Budget(r"pfo::finish_rows<.*>", threads=64, narrow_loops=1),
    # The fused linear op. Its tiles: as fold_rows, on float32 from the cache.
    Budget(r"pfo::fold_tile<.*>", narrow_loops=1, element_bytes=4),
    # A loop over the parts of a row, and two that rescale sums: rare.
    Budget(r"pfo::weigh_tile<.*>", narrow_loops=12, element_bytes=4),
    # Once a call or span: a token, row or column a thread, or a few entries of top-k.
    Budget(r"pfo::(topk_tile|list_live_rows|finish_no_rows)", narrow_loops=4),
    Budget(r"pfo::copy_rows<.*>", narrow_loops=4),
    Budget(r"pfo::finish_hidden_row<.*>", narrow_loops=20),
    Budget(r"pfo::(finish_linear_rows|finish_states)", threads=64, narrow_loops=4),
    Budget(r"pfo::(sum_columns|add_columns)", threads=128, narrow_loops=4),
    Budget(r"pfo::finish_grad_hidden", narrow_loops=4),
    Budget(r"pfo::finish_pairs<.*>", threads=64, narrow_loops=1),
    Budget(
        r"pfo::fold_pairs<double, .*>",
        narrow_loops=1,
        stack_bytes=16,  # outside of its loops; float64 is rare
        element_bytes=8,
        double_precision=True,
    ),
    Budget(r"pfo::fold_pairs<.*>", narrow_loops=1),
    Budget(r"pfo::grad_rows<double, .*>", element_bytes=8, double_precision=True),
    # The narrow loops serve rows that the two logits do not align alike.
    Budget(
        r"pfo::pair_grad_rows<double, .*>", narrow_loops=2, element_bytes=8, double_precision=True
    ),
    Budget(r"pfo::pair_grad_rows<.*>", narrow_loops=2),
    # Small beside logits: tokens one by one, by dtype; columns of a batch, looked up by number. A loss
    # holds the inputs of an element and its terms as arrays by field: 1352 bytes of a thread's stack.
    Budget(r"pfo::(sum|spread)_sequences", threads=128, narrow_loops=16, stack_bytes=8),
    Budget(r"pfo::(load|store)_columns", narrow_loops=8),
    Budget(r"pfo::run_loss<\d+>", narrow_loops=32, stack_bytes=1400),
)

# Sources that may use double precision outside such loops, as row states and loss formulas do: names
# in csrc/cuda.
DOUBLE_PRECISION = (
    *("token_logps*.cu", "pair_token_stats*.cu", "sequence_logps.cu", "loss*.cu"),
    *("linear_token_logps*.cu", "linear_finish.cu"),
)
