"""Wrong input to the linear ops: a clear error naming the argument, nothing written, no crash."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from linear_cases import Case
from support import run_script, same_bits

import prefopt
from prefopt import _core

REFUSED = (ValueError, TypeError)


def forward_call() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "hidden": rng.normal(size=(4, 3, 8)).astype(np.float32),
        "weight": rng.normal(size=(20, 8)).astype(np.float32),
        "labels": rng.integers(0, 20, (4, 3)),
        "bias": rng.normal(size=20).astype(np.float32),
        "lora_a": rng.normal(size=(2, 8)).astype(np.float32),
        "lora_b": rng.normal(size=(20, 2)).astype(np.float32),
    }


def backward_call() -> dict[str, Any]:
    call = forward_call()
    out = prefopt.linear_token_logps(**call, stats=("entropy",), keep_logits=True)
    ones = np.ones((4, 3), np.float32)
    return {
        **call,
        "lse": out.lse,
        "entropy": out.entropy,
        "grad_logps": ones,
        "grad_entropy": ones,
        "grad_lse": ones,
        "kept": out.kept,
    }


ARRAYS = [
    ("hidden", lambda a: a.astype(np.int32), "expected float16"),
    ("hidden", lambda a: np.asfortranarray(a), "contiguous last axis"),
    ("hidden", lambda a: a[..., :7].copy(), "shape"),
    ("hidden", lambda a: a[..., :0], "hidden size of 1"),
    ("hidden", lambda a: np.float32(1), r"expected \[..., hidden\]|expected an array"),
    ("hidden", lambda a: a.astype(">f4"), "byte"),
    ("hidden", lambda a: np.ma.array(a), "plain array"),
    ("weight", lambda a: a.astype(np.float64), "expected float16, bfloat16 or float32"),
    ("weight", lambda a: a.astype(np.int8), "expected float16"),
    ("weight", lambda a: a[:, :7].copy(), "shape"),
    ("weight", lambda a: np.asfortranarray(a), "contiguous last axis"),
    ("weight", lambda a: a[:0], "vocabulary of 1"),
    ("weight", lambda a: a[0], "2 axes"),
    ("weight", lambda a: None, "expected an array"),
    ("labels", lambda a: np.where(np.arange(12).reshape(4, 3) == 5, 20, a), "at index 5"),
    ("labels", lambda a: np.where(np.arange(12).reshape(4, 3) == 7, -1, a), "at index 7"),
    ("labels", lambda a: a.astype(float), "integer"),
    ("labels", lambda a: a[:, :2], "shape"),
    ("bias", lambda a: a[:19], "shape"),
    ("bias", lambda a: a[None], "1 axes"),
    ("bias", lambda a: a.astype(np.float64), "float32"),
    ("bias", lambda a: np.repeat(a, 2)[::2], "contiguous"),
    ("lora_a", lambda a: a[:, :5].copy(), "shape"),
    ("lora_b", lambda a: a[:, :1].copy(), "shape"),
    ("lora_b", lambda a: a[:19], "shape"),
]


@pytest.mark.parametrize(("name", "change", "message"), ARRAYS)
@pytest.mark.parametrize("function", ["linear_token_logps", "linear_token_logps_grad"])
def test_bad_arrays(function: str, name: str, change: Any, message: str) -> None:
    call = forward_call() if function == "linear_token_logps" else backward_call()
    before = call["kept"].copy() if "kept" in call else None
    call[name] = change(call[name])
    culprits = f"^({name}|weight|labels|lora_a): " if name == "hidden" else f"^{name}: "
    with pytest.raises(REFUSED, match=f"{culprits}.*({message})"):
        getattr(prefopt, function)(**call)
    if before is not None:
        assert same_bits(call["kept"], before)


@pytest.mark.parametrize("missing", ["lora_a", "lora_b"])
def test_half_a_lora(missing: str) -> None:
    call = forward_call()
    call[missing] = None
    with pytest.raises(ValueError, match=f"^{missing}: expected lora_a and lora_b"):
        prefopt.linear_token_logps(**call)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected"),
        ({"temperature": np.nan}, "temperature"),
        ({"logit_scale": 0.0}, "logit_scale: expected a finite number that is not 0"),
        ({"logit_scale": np.inf}, "logit_scale"),
        ({"softcap": 0.0}, "softcap: expected a finite number > 0"),
        ({"softcap": -1.0}, "softcap"),
        ({"softcap": np.nan}, "softcap"),
        ({"softcap": "x"}, "softcap"),
        ({"dtype": "float32"}, "dtype: expected \"bfloat16\" or None, got 'float32'"),
        ({"dtype": 3}, "dtype: expected"),
        ({"memory_limit": 0}, "memory_limit: expected a number of bytes > 0"),
        ({"memory_limit": -1}, "memory_limit"),
        ({"memory_limit": 1.5}, "memory_limit"),
        ({"memory_limit": 100}, r"memory_limit: expected at least \d+ bytes"),
        ({"topk": -1}, "topk: expected 0 or more"),
        ({"topk": 21}, "topk: expected 1 <= topk <= 20"),
        ({"topk": 1.5}, "topk"),
        ({"stats": "entropy"}, "stats: expected a sequence"),
        ({"stats": ("entropyy",)}, "stats: unknown .* did you mean entropy"),
        ({"return_grad_hidden": "logps"}, "return_grad_hidden: expected a sequence"),
        ({"return_grad_hidden": ("logp",)}, "return_grad_hidden: unknown .* did you mean logps"),
        ({"return_grad_hidden": ("entropy",)}, "grad_hidden_logps: expected grad_hidden_logps or"),
        ({"return_grad_hidden": True, "keep_logits": True}, "kept: expected none"),
        ({"ignore_index": 0.5}, "ignore_index"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(REFUSED, match=f"^{message}"):
        prefopt.linear_token_logps(**{**forward_call(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lse": None}, "lse: expected an array"),
        ({"lse": np.ones((4, 2), np.float32)}, "lse: expected shape"),
        ({"entropy": None}, "entropy: expected the forward's"),
        (
            {"grad_logps": None, "grad_entropy": None, "grad_lse": None},
            "grad_logps: expected at least",
        ),
        ({"grad_logps": np.ones((4, 3), int)}, "grad_logps: expected float32 or float64"),
        ({"kept": np.zeros((11, 20), np.float32)}, "kept: expected shape"),
        ({"kept": np.zeros((12, 20))}, "kept: expected float32"),
        ({"grad_filter": -0.1}, r"grad_filter: expected a number in \[0, 1\)"),
        ({"grad_filter": 1.0}, "grad_filter"),
        ({"grad_filter": np.nan}, "grad_filter"),
        ({"needs": ()}, "grad_hidden: expected at least one gradient"),
        ({"needs": "hidden"}, "needs: expected a sequence"),
        ({"needs": ("hiden",)}, "needs: unknown .* did you mean hidden"),
        ({"memory_limit": 100}, "memory_limit: expected at least"),
    ],
)
def test_bad_gradient_calls(change: dict[str, Any], message: str) -> None:
    call = backward_call()
    before = call["kept"].copy()
    with pytest.raises(REFUSED, match=f"^{message}"):
        prefopt.linear_token_logps_grad(**{**call, **change})
    assert same_bits(call["kept"], before)


def test_read_only_kept() -> None:
    call = backward_call()
    call["kept"].flags.writeable = False
    with pytest.raises(ValueError, match=r"^kept: expected a writable"):
        prefopt.linear_token_logps_grad(**call)


def test_kept_is_where_the_gradient_is_made() -> None:
    """It may not be an input either."""
    case = Case(8, 8, 8, ignored=0.0)
    out = case.forward(keep_logits=True)
    with pytest.raises(
        ValueError, match=r"^kept: the range of memory it spans overlaps that of weight"
    ):
        case.backward(out.lse, out.entropy, kept=case.weight)


def test_split_vocabulary_is_checked() -> None:
    call = forward_call()
    inputs = [call[name] for name in ("hidden", "weight", "labels", "bias", "lora_a", "lora_b")]
    options = (None, -100, 1.0, None, 1.0, None)
    wanted = ((False,) * 7, 0, (False,) * 3, True, False, False)
    for start, total, message in (
        (-1, 40, "vocab_start"),
        (0, 19, "vocab_total"),
        (21, 40, "vocab_total"),
        (0, -5, "vocab_total"),
    ):
        with pytest.raises(ValueError, match=f"^{message}: "):
            _core.linear_token_logps(*inputs, *options, start, total, *wanted)
    with pytest.raises(ValueError, match=r"^grad_hidden_logps: expected none with a split"):
        _core.linear_token_logps(
            *inputs, *options, 0, 40, (False,) * 7, 0, (True,) * 3, *wanted[3:]
        )
    states = np.zeros((2, 4, 3, 9))
    for bad, message in (
        (states[..., :8], "states"),
        (states[0], "states"),
        (states * 1j, "states"),
    ):
        with pytest.raises(REFUSED, match=f"^{message}: "):
            _core.row_states_finish(bad, call["labels"], -100, False, False)


def test_wrong_counts_and_types_of_the_extension() -> None:
    for function in (
        _core.linear_token_logps,
        _core.linear_token_logps_grad,
        _core.row_states_finish,
    ):
        with pytest.raises(TypeError, match="arguments"):
            function(1, 2)


def test_blas_that_cannot_be_used(tmp_path: Any) -> None:
    name = _core.blas_name()
    nothing = tmp_path / "nothing.so"
    for bad in (str(nothing), __file__):
        with pytest.raises(ValueError, match=r"^path: expected a shared library"):
            _core.blas_load(bad)
    assert _core.blas_name() == name
    done = run_script(
        "import prefopt; prefopt.linear_token_logps", env={"PREFOPT_BLAS": "/nope.so"}
    )
    assert done.returncode == 0, done.stderr  # import works; the first call says what is wrong
    done = run_script(
        """
        import numpy as np, prefopt
        prefopt.linear_token_logps(np.ones((1, 2)), np.ones((3, 2)), np.zeros(1, int))
        """,
        env={"PREFOPT_BLAS": "/nope.so"},
    )
    assert "ValueError: path: expected a shared library" in done.stderr


def test_blas_of_another_package_is_not_touched() -> None:
    """Its thread count stays, as prefopt loads a copy of its file."""
    pytest.importorskip("scipy_openblas32")
    done = run_script(
        """
        import ctypes
        import numpy as np
        from prefopt import _blas, _core

        library = ctypes.CDLL(str(_blas.library_path()))
        library.scipy_openblas_set_num_threads(2)
        import prefopt
        a = np.ones((3, 2))
        prefopt.linear_token_logps(a, a, np.zeros(3, int))
        assert _core.blas_name() != str(_blas.library_path()), _core.blas_name()
        print(library.scipy_openblas_get_num_threads(), _blas.ensure_loaded())
        """
    )
    assert done.stdout.startswith("2 a copy of"), done.stdout + done.stderr
