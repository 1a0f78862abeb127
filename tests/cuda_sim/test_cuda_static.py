"""The gates on machine code find what they should, on listings by hand and on nvcc's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tools"))

import cuda_static
import sass
from cuda_budgets import Budget

SAMPLES = ("grad.cu", "linear.cu", "rows.cu")


def listing(*lines: str) -> str:
    """cuobjdump's form of a function, an instruction every 16 bytes."""
    body = "".join(
        f"        /*{16 * i:04x}*/          {line} ;  /* 0x0 */\n" for i, line in enumerate(lines)
    )
    return f"\tcode for sm_90\n\t\tFunction : kernel\n{body}"


def loops_of(*lines: str) -> list[tuple[int, dict[int, int]]]:
    ((architecture, name, code),) = sass.functions(listing(*lines))
    assert (architecture, name, len(code)) == ("90", "kernel", len(lines))
    return [(loop.instructions, loop.loads) for loop in sass.innermost_loops(code)]


def test_a_loop_and_what_it_loads() -> None:
    assert loops_of(
        "MOV R1, c[0x0][0x28]",
        "LDG.E.128 R4, desc[UR4][R2.64]",  # 0x10
        "LDG.E.EF.U16 R8, desc[UR4][R2.64+0x10]",
        "LDG.E R8, desc[UR4][R2.64+0x20]",
        "LDS.128 R8, [R3]",
        "@!P0 BRA 0x10",
        "EXIT",
        "BRA 0x70",  # padding: a branch to itself
    ) == [(5, {128: 1, 16: 1, 32: 1})]


def test_only_innermost_loops_count() -> None:
    assert loops_of(
        "MOV R1, R2",
        "IADD3 R1, R1, 0x1, RZ",  # 0x10: the outer loop
        "LDG.E.64 R4, desc[UR4][R2.64]",  # 0x20: the inner one
        "@P0 BRA 0x20",
        "@P1 BRA 0x10",
        "EXIT",
    ) == [(2, {64: 1})]


def test_code_out_of_line_makes_no_loop() -> None:
    """A warp that diverged goes far ahead and comes back: nothing repeats."""
    assert (
        loops_of(
            "BRA.DIV UR4, 0x40",
            "SHFL.BFLY PT, R4, R3, 0x1, 0x1f",  # 0x10
            "LDG.E R4, desc[UR4][R2.64]",
            "EXIT",
            "MOV R5, R6",  # 0x40
            "BRA 0x10",
        )
        == []
    )


@pytest.mark.parametrize("jump", ["BRX", "BRXU"])
def test_loops_after_a_jump_by_table_are_found(jump: str) -> None:
    assert loops_of(
        "@P0 BRA 0x40",
        f"{jump} R10 -0x20",  # 0x10: to 0x20 or 0x40
        "LDG.E.U8 R4, desc[UR4][R2.64]",
        "BRA 0x50",
        "LDG.E R4, desc[UR4][R2.64]",  # 0x40
        "LDG.E.128 R4, desc[UR4][R2.64]",  # 0x50
        "@P0 BRA 0x50",
        "EXIT",
    ) == [(2, {128: 1})]


def test_a_load_that_nothing_leads_to_is_an_error() -> None:
    with pytest.raises(ValueError, match="misses a branch"):
        loops_of("EXIT", "LDG.E R4, desc[UR4][R2.64]", "EXIT")


def test_double_precision_and_local_memory_are_counted() -> None:
    ((_, _, code),) = sass.functions(
        listing(
            "LDG.E.64 R4, desc[UR4][R2.64]",  # 0x0
            "FFMA R1, R1, R2, R3",
            "DFMA R8, R4, R4, R8",
            "DSETP.GT.AND P1, PT, R8, RZ, PT",
            "F2F.F64.F32 R6, R1",
            "F2F.F32.F64 R6, R8",
            "MUFU.RCP64H R7, R9",
            "MUFU.EX2 R7, R9",
            "DEPBAR.LE SB0, 0x0",
            "STL.64 [R1], R6",
            "LDL R6, [R1]",
            "@P0 BRA 0x0",
            "EXIT",
        )
    )
    assert [(loop.doubles, loop.locals) for loop in sass.innermost_loops(code)] == [(5, 2)]


def row(**changes: int) -> cuda_static.Row:
    values = {
        "registers": 32,
        "stack_bytes": 0,
        "shared_bytes": 0,
        "occupancy": 100,
        "loop_instructions": 128,
    }
    return cuda_static.Row("k", 90, **(values | {"loop_loads": 1, "narrow_loops": 0} | changes))


@pytest.mark.parametrize(
    ("changes", "loops", "budget", "words"),
    [
        ({}, [sass.Loop(9, {128: 1})], Budget("k", instructions={90: 16.0}), ""),
        ({}, [sass.Loop(9, {128: 1})], Budget("k", instructions={90: 15.9}), "16.0 instructions"),
        ({}, [sass.Loop(9, {128: 1})], Budget("k", element_bytes=4, instructions={90: 31}), "32.0"),
        ({"loop_loads": 0}, [], Budget("k", instructions={90: 9}), "no loop with 128-bit loads"),
        ({"narrow_loops": 1}, [], Budget("k"), "1 loops load less"),
        ({"narrow_loops": 1}, [], Budget("k", narrow_loops=1), ""),
        ({}, [sass.Loop(9, {128: 1, 16: 1})], Budget("k"), "narrower ones too"),
        ({}, [sass.Loop(9, {128: 1}, doubles=2)], Budget("k"), "2 instructions of double"),
        ({}, [sass.Loop(9, {128: 1}, doubles=2)], Budget("k", double_precision=True), ""),
        ({}, [sass.Loop(9, {64: 1}, doubles=2)], Budget("k"), ""),
        ({}, [sass.Loop(9, {128: 1}, locals=1)], Budget("k", stack_bytes=8), "to local memory"),
        ({"stack_bytes": 8}, [], Budget("k"), "8 bytes of stack"),
        ({"stack_bytes": 8}, [], Budget("k", stack_bytes=8), ""),
    ],
)
def test_gates(changes: dict[str, int], loops: list[sass.Loop], budget: Budget, words: str) -> None:
    wrong = cuda_static.gate(row(**changes), loops, budget)
    assert len(wrong) == (words != "")
    assert all(words in text for text in wrong)


def test_differences_from_the_accepted_table() -> None:
    accepted = cuda_static._table_of([row()])
    assert cuda_static.compare([row()], accepted) == []
    assert cuda_static.compare([row(registers=33)], accepted) == [
        "k sm_90: registers 32 -> 33 (worse)"
    ]
    assert cuda_static.compare([row(occupancy=75)], accepted) == [
        "k sm_90: occupancy 100 -> 75 (worse)"
    ]
    assert "better" in cuda_static.compare([row(registers=31)], accepted)[0]
    assert cuda_static.compare([], accepted) == ["k sm_90: gone"]
    assert cuda_static.compare([row()], {}) == ["k sm_90: new"]


# ---- with nvcc ---------------------------------------------------------------------------------------

STACK = {
    "spills": """
__global__ void __launch_bounds__(1024) k(const float *x, float *y) {
    float a[64];
    for (int i = 0; i < 64; i++) a[i] = x[i * 1024 + threadIdx.x];
    for (int r = 0; r < 3; r++)
        for (int i = 0; i < 64; i++) a[i] = a[(i + 1) % 64] * a[i] + a[(i + 7) % 64];
    for (int i = 0; i < 64; i++) y[i * 1024 + threadIdx.x] = a[i];
}""",
    "local array": """
__global__ void k(const int *x, int *y) {
    int a[32] = {};
    for (int i = 0; i < 64; i++) a[x[i] & 31] += i;
    y[threadIdx.x] = a[threadIdx.x & 31];
}""",
}


@pytest.mark.cuda_sim
@pytest.mark.parametrize("fault", STACK)
def test_stack_is_refused(fault: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cuda_static, "BUILD", tmp_path)
    source = tmp_path / "fault.cu"
    source.write_text(STACK[fault])
    _, wrong = cuda_static.check([str(source)], [Budget("k", narrow_loops=9)])
    assert len(wrong) == 5
    assert all("bytes of stack" in text for text in wrong)


# What nvcc or ptxas says, and a source of which it says that.
REFUSED = {
    "Double precision": """
__global__ void k(const float *x, float *y) { y[threadIdx.x] = x[threadIdx.x] * 0.1; }""",
    "was declared but never referenced": """
__global__ void k(float *y) { int unused; y[threadIdx.x] = 1; }""",
}


@pytest.mark.cuda_sim
@pytest.mark.parametrize("words", REFUSED)
def test_the_compiler_refuses(words: str, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(cuda_static, "BUILD", tmp_path)
    source = tmp_path / "fault.cu"
    source.write_text(REFUSED[words])
    with pytest.raises(cuda_static.Failure, match="nvcc gives warnings or errors"):
        cuda_static.compile_source(str(source))
    assert words.lower() in capfd.readouterr().err.lower()


@pytest.mark.cuda_sim
def test_samples_within_their_budgets() -> None:
    """And outside of tighter ones."""
    sources = [f"tests/cuda_sim/samples/{name}" for name in SAMPLES]
    loose = (
        Budget(r"lse_\w+<float>", narrow_loops=4, element_bytes=4, instructions={90: 8}),
        Budget(r"lse_\w+<.*>", narrow_loops=4, instructions={90: 8}),
        Budget(r"grad_row<.*>", threads=128, narrow_loops=2),
        Budget(r"fold_tile", threads=128, narrow_loops=4),
    )
    rows, wrong = cuda_static.check(sources, loose)
    assert wrong == []
    assert len(rows) == 13 * 5
    assert all(0 < r.registers < 64 and 0 < r.occupancy <= 100 for r in rows)
    assert {r.shared_bytes for r in rows if r.kernel.startswith("lse_block")} == {64}
    # float's loops count as well with two bytes an element, and stay below.
    tight = (Budget(r"lse_\w+<.*>", narrow_loops=4, instructions={90: 4}), *loose[2:])
    _, wrong = cuda_static.check(sources, tight)
    assert len(wrong) == 6
    assert all("instructions an element" in text for text in wrong)
