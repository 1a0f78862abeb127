"""What each CUDA kernel may cost: read by tools/cuda_static.py.

A kernel that no row names is held to the default: no loop that loads less than 128 bits at a time.
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
    element_bytes: int = 2
    # Instructions an element of the loop that loads most, by architecture (75, 80, ...).
    instructions: dict[int, float] = field(default_factory=dict)


# The first row that matches counts.
BUDGETS: tuple[Budget, ...] = ()

# Sources that may use double precision, as loss formulas do: names in csrc/cuda.
DOUBLE_PRECISION: tuple[str, ...] = ()
