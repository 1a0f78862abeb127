"""The PTX translator refuses what it does not know and takes apart what it does; no toolkit needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ptx2cpp
from ptx_module import Refused, parse

HEAD = """
.version 9.0
.target sm_90
.address_size 64
.shared .align 4 .b8 held[16];
.visible .entry kernel(
    .param .u64 kernel_param_0,
    .param .align 8 .b8 kernel_param_1[48]
)
.maxntid 64, 2, 1
{
    .reg .pred %p<4>;
    .reg .b16 %rs<4>;
    .reg .b32 %r<9>;
    .reg .f32 %f<9>;
    .reg .b64 %rd<9>;
"""
FILES = """
    .file 1 "/work/a.cu"
    .file 2 "/usr/local/cuda/include/crt/sm_30_intrinsics.hpp"
    .file 3 "/work/b.cuh"
"""


def body(text: str) -> str:
    """The translation of one kernel with these statements."""
    (translated,) = ptx2cpp.translate(HEAD + text + "\n ret;\n}\n" + FILES)
    return translated


def test_declarations() -> None:
    module = parse(HEAD + "ret;\n}\n" + FILES)
    (kernel,) = module.kernels
    assert (kernel.name, kernel.parameters, kernel.max_threads) == ("kernel", [8, 48], 128)
    assert module.variables["held"].size == 16
    assert module.files[3] == "/work/b.cuh"


@pytest.mark.parametrize(
    ("statement", "translation"),
    [
        ("add.s32 %r1, %r2, -3;", "ptx::add_s32(in(v_r[2]), Constant{int64_t(-3)})"),
        ("@!%p1 mov.f32 %f1, 0f3F800000;", "if (!v_p[1]) v_f[1] = out<b32>(ptx::mov_f32("),
        ("ld.global.cs.v2.f32 {%f1, %f2}, [%rd1+8];", "load_global<f32, 2>(u64(v_rd[1]) + 8)"),
        ("st.shared.u16 [held+2], %rs1;", "window.template store<u16, 1>("),
        ("ld.param.u64 %rd1, [kernel_param_1+16];", "u64(int64_t(parameters[1])) + 16"),
        ("setp.lt.and.s32 %p1, %r1, %r2, !%p2;", "in(v_r[2])) & pred(in(pred(!v_p[2])));"),
        ("mov.b32 {%rs1, %rs2}, %r1;", "v_rs[2] = out<b16>(b16(whole >> 16));"),
        ("mov.b64 %rd1, {%r1, %r2};", "| b64(b32(in(v_r[2]))) << 32"),
        ("shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, -1;", "v_p[1] = got.in_range;"),
        ("atom.global.add.u32 %r1, [%rd1+4], 1;", "ptx::atom_add_u32(u64(v_rd[1]) + 4, "),
        ("{ .reg .pred %p1; setp.ne.u32 %p1, %r1, 0; }", "n_p1 = ptx::setp_ne_u32("),
        (".local .align 8 .b8 \tspill[24];", "alignas(8) char spill[24];"),
        (
            ".local .align 8 .b8 spill[24];\nmov.u64 %rd1, spill;",
            "mov_u64(Constant{int64_t(&spill)}",
        ),
        ("st.local.v2.f32 [%rd1+8], {%f1, %f2};", "ptx::store<f32, 2>(u64(v_rd[1]) + 8"),
        ("bra.uni $L_1;\n$L_1:", "goto SL_1;\nSL_1:;"),
    ],
)
def test_statements(statement: str, translation: str) -> None:
    assert translation in body(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "ld.volatile.global.f32 %f1, [%rd1];",  # an order that a plain load has not
        "ld.acquire.gpu.global.f32 %f1, [%rd1];",
        "cp.async.ca.shared.global [%r1], [%rd1], 16;",
        "call.uni (retval0), helper, (param0);",
        "atom.add.u32 %r1, [%rd1], 1;",  # of either memory
        "atom.global.sys.add.u32 %r1, [%rd1], 1;",
        "ld.global.f32 %f1, [%rd1+%rd2];",
        ".reg .b128 %q1;",
    ],
)
def test_unknown_forms_are_refused(statement: str) -> None:
    with pytest.raises(Refused):
        body(statement)


def test_device_functions_are_refused() -> None:
    with pytest.raises(Refused, match="helper"):
        parse(".func (.param .b32 out) helper(.param .b32 a)\n{\nret;\n}\n")


def test_lines_are_those_of_our_files() -> None:
    """An intrinsic's place is NVIDIA's header; the line wanted is that of whoever called it."""
    text = body(
        """
    .loc 1 10 5
    mov.u32 %r1, 1;
    .loc 3 20 5, function_name $info0, inlined_at 1 11 5
    mov.u32 %r2, 2;
    .loc 2 30 5, function_name $info1, inlined_at 3 20 5
    mov.u32 %r3, 3;
"""
    )
    places = [line for line in text.split("\n") if line.startswith("#line")]
    assert places[:3] == [
        '#line 10 "/work/a.cu"',
        '#line 20 "/work/b.cuh"',
        '#line 20 "/work/b.cuh"',
    ]
