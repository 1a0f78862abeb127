"""`python -m prefopt bench --device cuda` on the simulated GPU: its comparisons and what it prints.
Its times are a stand-in's; tests/gpu/test_gpu_programs.py runs it on a real one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_ways import WAYS  # noqa: E402

from prefopt import _bench_cuda, _cublas  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt._cuda import CudaState  # noqa: E402

pytestmark = pytest.mark.cuda_sim


class StandIn(_bench_cuda.Gpu):
    device = "cpu"

    def name(self) -> str:
        return "no GPU"

    def milliseconds(
        self, runs: Mapping[str, Callable[[], Any]], repeats: int
    ) -> dict[str, list[float]]:
        return {name: [2.0 + k] * repeats for k, name in enumerate(runs)}

    def peak_bytes(self, run: Callable[[], Any]) -> int:
        run()
        return 10**6

    def copy_gb_s(self, repeats: int) -> float:
        return 0.001


@pytest.fixture(autouse=True)
def way(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Those that are installed here would run on the CPU, Liger not at all.
    monkeypatch.setattr(_bench_cuda, "_is_installed", lambda name: name == "torch")
    with WAYS["cuda"]():
        yield


def bench(as_json: bool = True) -> int:
    return _bench_cuda.run(rows=20, vocab=300, hidden=16, repeats=2, as_json=as_json, gpu=StandIn())


def test_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench() == 0
    report = json.loads(capsys.readouterr().out)
    titles = [each["title"].partition(",")[0] for each in report["comparisons"]]
    assert titles == [
        "log-probs",
        "log-probs and gradient",
        "linear log-probs and gradient",
        "linear log-probs and gradient",
    ]
    for compared in report["comparisons"]:
        assert {"prefopt"} < {way["name"] for way in compared["ways"]}
        assert all(way["problem"] is None for way in compared["ways"])
        assert compared["ways"][0]["median_s"] == 2e-3
        assert compared["ways"][0]["peak_bytes"] == 10**6


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(as_json=False) == 0
    table = capsys.readouterr().out
    assert table.startswith("no GPU, torch ")
    assert "frozen head, bfloat16 [20 x 16] by [300 x 16]" in table
    assert "torch, logits held" in table


@pytest.mark.parametrize("scale", [1.001, 1.2], ids=["log-probs", "gradient"])
def test_a_wrong_result_is_no_time(
    scale: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = prefopt_torch.token_logps
    calls = []

    def wrong(logits: Any, labels: Any, **options: Any) -> Any:
        calls.append(1)
        got = right(logits, labels, **options)
        return got if len(calls) == 1 else got._replace(logps=got.logps * scale)

    monkeypatch.setattr(prefopt_torch, "token_logps", wrong)
    assert bench() == 1
    captured = capsys.readouterr()
    way = json.loads(captured.out)["comparisons"][0]["ways"][0]
    assert way["problem"].startswith("log-probs differ from the CPU's by ")
    assert "median_s" not in way
    assert "a result of prefopt is wrong" in captured.err


def test_a_wrong_gradient_is_found() -> None:
    truth = torch.zeros(3), torch.ones(3, 2)
    way = _bench_cuda.Way("a peer", lambda: (torch.zeros(3), torch.full((3, 2), 1.2)))
    assert _bench_cuda._problem(way, truth) == (
        "the gradient differs from the CPU's by 0.2 of its largest"
    )


def test_a_peer_that_fails_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(torch.nn.functional, "linear_cross_entropy", fails, raising=False)
    assert bench(as_json=False) == 0
    assert "RuntimeError: no kernel" in capsys.readouterr().out


def test_without_cublas_logits_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = CudaState(False, "cuBLAS missing: none")
    monkeypatch.setattr(_cublas, "cublas_available", lambda: missing)
    assert bench() == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cublas"] == "cuBLAS missing: none"
    assert len(report["comparisons"]) == 2
