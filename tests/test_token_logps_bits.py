"""The same bits for any ISA row, thread count, run, memory layout and grouping of rows, forward and
backward.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from oracle import logps as oracle
from support import DTYPES, Dtype, same_bits, same_results

import prefopt

ALL = oracle.OPTIONAL_STATS
UPSTREAM = ("grad_logps", "grad_entropy", "grad_lse")
# Lanes - 1, lanes, lanes + 1 of 16 and 32; several blocks (1k - 4k elements) and a tail; GPT-2's
# vocabulary.
VOCABS = (1, 15, 16, 17, 31, 32, 33, 1000, 4095, 4096, 4097, 9001, 50257)


class Case:
    """Logits with awkward rows (masked, all -inf, NaN, +inf, ignored), labels and upstream
    gradients.
    """

    def __init__(self, dtype: Dtype, rows: int, vocab: int, seed: int = 0) -> None:
        rng = np.random.default_rng([rows, vocab, seed])
        values = 4 * rng.normal(size=(rows, vocab))
        self.labels = rng.integers(0, vocab, rows)
        if rows >= 7:
            values[1, rng.random(vocab) < 0.5] = -np.inf
            values[2] = -np.inf
            values[3, vocab // 2] = np.nan
            values[4, vocab // 3] = np.inf
            values[5] *= 1e3
            self.labels[6] = -100
        self.dtype = dtype
        self.logits = dtype.make(values)
        self.upstream = {name: rng.normal(size=rows).astype(dtype.result) for name in UPSTREAM}

    def forward(self, logits: np.ndarray | None = None) -> prefopt.TokenLogps:
        chosen = self.logits if logits is None else logits
        return prefopt.token_logps(
            chosen,
            self.labels.reshape(chosen.shape[:-1]),
            temperature=1.3,
            stats=ALL,
            **self.dtype.arguments,
        )

    def backward(
        self, logits: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        chosen = self.logits if logits is None else logits
        lead = chosen.shape[:-1]
        forward = self.forward(chosen)
        return prefopt.token_logps_grad(
            chosen,
            self.labels.reshape(lead),
            forward.lse,
            entropy=forward.entropy,
            temperature=1.3,
            out=out,
            **{name: value.reshape(lead) for name, value in self.upstream.items()},
            **self.dtype.arguments,
        )


def flat(results: prefopt.TokenLogps) -> list[np.ndarray]:
    return [np.asarray(getattr(results, name)).reshape(-1) for name in oracle.STATS]


@pytest.mark.parametrize("vocab", VOCABS)
def test_isa_rows_agree(dtype: Dtype, vocab: int) -> None:
    case = Case(dtype, 9 if vocab < 50000 else 7, vocab)
    results = {}
    for isa in prefopt.isas():
        with prefopt.using_isa(isa):
            results[isa] = (case.forward(), case.backward())
    first = prefopt.isas()[0]
    for isa, (forward, backward) in results.items():
        for name in oracle.STATS:
            assert same_bits(getattr(forward, name), getattr(results[first][0], name)), (isa, name)
        assert same_bits(backward, results[first][1]), isa


def test_threads_and_runs(isa: str, threads: int) -> None:
    """Big enough (over 40k logits) that every thread count runs in parallel; twice, for repeated
    runs.
    """
    assert prefopt.get_num_threads() == threads
    for name in ("float32", "bfloat16_raw"):
        case = Case(DTYPES[name], 41, 4099)
        before = prefopt.get_num_threads()
        prefopt.set_num_threads(1)
        want = case.forward(), case.backward()
        prefopt.set_num_threads(before)
        for _ in range(2):
            assert same_results(case.forward(), want[0])
            assert same_bits(case.backward(), want[1])


def test_few_long_rows_and_threads(threads: int) -> None:
    """Fewer rows than threads, and one row: a split inside a row would show."""
    for rows in (1, 2):
        case = Case(DTYPES["float32"], rows, 262144)
        got = case.forward(), case.backward()
        prefopt.set_num_threads(1)
        assert same_results(got[0], case.forward())
        assert same_bits(got[1], case.backward())


def test_rows_do_not_depend_on_their_company(isa: str, dtype: Dtype) -> None:
    """A row alone has the bits it has among others: no batch shape changes a log-prob."""
    case = Case(dtype, 9, 1003)
    together = case.forward(), case.backward()
    for r in range(9):
        alone = Case(dtype, 9, 1003)
        alone.labels = case.labels[r : r + 1]
        alone.upstream = {name: value[r : r + 1] for name, value in case.upstream.items()}
        one = np.ascontiguousarray(case.logits[r : r + 1])
        for a, b in zip(flat(alone.forward(one)), flat(together[0]), strict=True):
            assert same_bits(a, b[r : r + 1])
        assert same_bits(alone.backward(one), together[1][r : r + 1])


def test_bfloat16_forms_agree(isa: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    raw = Case(DTYPES["bfloat16_raw"], 9, 777)
    named = Case(DTYPES["bfloat16"], 9, 777)
    assert named.logits.dtype == ml_dtypes.bfloat16
    assert same_results(raw.forward(), named.forward())
    gradient = named.backward()
    assert gradient.dtype == ml_dtypes.bfloat16
    assert same_bits(gradient.view(np.uint16), raw.backward())


def test_half_results_are_those_of_the_exact_values(isa: str) -> None:
    """float16 and bfloat16 logits give the bits of the same values in float32: nothing is rounded
    to their dtype.
    """
    for name in ("float16", "bfloat16_raw"):
        half = Case(DTYPES[name], 9, 1003)
        wide = Case(DTYPES["float32"], 9, 1003)
        wide.logits = half.dtype.exact(half.logits).astype(np.float32)
        assert same_results(half.forward(), wide.forward()), name


# ---- layouts -------------------------------------------------------------------------------------


def _padded(x: np.ndarray) -> np.ndarray:
    """Rows 3 elements further apart than they are long, as a slice [:, :, :V] leaves them."""
    wide = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)
    wide[..., :-3] = x
    return wide[..., :-3]


def _transposed(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)


def _negative(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]


def _every_other(x: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3]


def _odd_offset(x: np.ndarray) -> np.ndarray:
    """Aligned to the element and to nothing more: one element past a 64-byte boundary."""
    buffer = np.zeros(x.size + 64, x.dtype)
    start = (-buffer.ctypes.data % 64) // x.itemsize + 1
    view = buffer[start : start + x.size].reshape(x.shape)
    view[...] = x
    assert view.ctypes.data % 64 == x.itemsize
    return view


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "padded rows": _padded,
    "transposed leading axes": _transposed,
    "negative strides": _negative,
    "every other row": _every_other,
    "odd offset": _odd_offset,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_inputs(isa: str, dtype: Dtype, layout: str) -> None:
    case = Case(dtype, 12, 161)
    contiguous = case.logits.reshape(3, 4, 161)
    laid_out = LAYOUTS[layout](contiguous)
    assert laid_out.tobytes() == contiguous.tobytes()
    assert same_results(case.forward(laid_out), case.forward(contiguous))
    assert same_bits(case.backward(laid_out), case.backward(contiguous))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_out(isa: str, dtype: Dtype, layout: str) -> None:
    """A strided `out`, and a strided `logits` that is its own `out`; the gaps between rows are not
    written.
    """
    case = Case(dtype, 12, 161)
    contiguous = case.logits.reshape(3, 4, 161)
    want = case.backward(contiguous)
    out = LAYOUTS[layout](contiguous)
    base = out
    while isinstance(base.base, np.ndarray):
        base = base.base
    gaps = np.ones(base.nbytes, bool)
    offsets = np.zeros(out.shape, np.int64) + (out.ctypes.data - base.ctypes.data)
    for axis, stride in enumerate(out.strides):
        shape = [1] * out.ndim
        shape[axis] = -1
        offsets += (np.arange(out.shape[axis]) * stride).reshape(shape)
    for byte in range(out.itemsize):
        gaps[offsets.ravel() + byte] = False
    raw = as_strided(base.reshape(-1).view(np.uint8), (base.nbytes,), (1,))
    before = raw[gaps].copy()
    assert case.backward(contiguous, out=out) is out
    assert out.tobytes() == want.tobytes()
    assert np.array_equal(raw[gaps], before)

    itself = LAYOUTS[layout](contiguous)
    assert case.backward(itself, out=itself) is itself
    assert itself.tobytes() == want.tobytes()


def test_in_place(isa: str, dtype: Dtype, threads: int) -> None:
    case = Case(dtype, 41, 1003)
    want = case.backward()
    separate = np.empty_like(case.logits)
    assert case.backward(out=separate) is separate
    assert same_bits(separate, want)
    assert case.backward(out=case.logits) is case.logits
    assert same_bits(case.logits, want)


def test_in_place_through_another_view(isa: str) -> None:
    """`out` may be another array object over exactly the memory of logits."""
    case = Case(DTYPES["float32"], 9, 77)
    want = case.backward()
    alias = case.logits[:]
    assert case.backward(out=alias) is alias
    assert same_bits(case.logits, want)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_broadcast_logits(isa: str, dtype: Dtype, axes: tuple[int, ...]) -> None:
    """Leading axes of stride 0 are read in place: one row of logits scored at many labels."""
    case = Case(dtype, 12, 57)
    shape = tuple(1 if axis in axes else size for axis, size in enumerate((3, 4)))
    few = np.ascontiguousarray(case.logits[: shape[0] * shape[1]].reshape(*shape, 57))
    wide = np.broadcast_to(few, (3, 4, 57))
    copied = np.ascontiguousarray(wide)
    assert same_results(case.forward(wide), case.forward(copied))
    assert same_bits(case.backward(wide), case.backward(copied))


def test_strided_upstream_and_results(isa: str) -> None:
    """lse, entropy and the upstream gradients in any stride, stride 0 included, and in either float
    type.
    """
    case = Case(DTYPES["float32"], 9, 77)
    forward = case.forward()
    ones = np.ones(9, np.float32)
    want = prefopt.token_logps_grad(
        case.logits, case.labels, forward.lse, grad_logps=ones, temperature=1.3
    )
    for upstream in (
        np.broadcast_to(np.float32(1), (9,)),
        np.ones(18, np.float32)[::-2],
        np.ones(9),
    ):
        for lse in (forward.lse, np.repeat(forward.lse, 2)[::2], forward.lse.astype(np.float64)):
            got = prefopt.token_logps_grad(
                case.logits, case.labels, lse, grad_logps=upstream, temperature=1.3
            )
            assert same_bits(got, want)
