"""The command line: what it prints, and its exit codes (0 well, 1 a check failed, 2 cannot)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import prefopt
from prefopt import _check, testing
from prefopt.__main__ import main

COMMANDS = ("study", "check", "bench", "doctor", "explain")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"prefopt {prefopt.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["bench", "--rows", "0"], ["bench", "--vocab", "x"], ["check", "-q"]],
)
def test_bad_arguments_exit_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_doctor_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert prefopt.__version__ in text
    assert np.__version__ in text
    assert prefopt.isas()[-1] in text


def test_doctor_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["isa"]["usable"] == list(prefopt.isas())
    assert facts["isa"]["chosen"] in prefopt.isas()
    assert facts["threads"] == prefopt.get_num_threads()
    state = prefopt.cuda_available()
    assert facts["cuda"]["available"] is state.available
    assert facts["cuda"]["reason"] == state.reason
    assert (facts["cuda"]["library"] is None) == (state.reason == "not built")
    assert facts["integrations"]["numpy"] == np.__version__


def test_doctor_reports_a_bad_forced_row() -> None:
    """A bad PREFOPT_ISA must not stop the command that is there to explain it."""
    result = subprocess.run(
        [sys.executable, "-m", "prefopt", "doctor"],
        cwd=Path(prefopt.__file__).resolve().parent.parent,
        env={"PREFOPT_ISA": "sse9", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "sse9" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["check", "bench", "study"])
def test_a_bad_forced_row_is_one_line_and_code_2(command: str, tmp_path: Path) -> None:
    """Kernels would raise at their first call: said before anything is begun."""
    result = subprocess.run(
        [sys.executable, "-m", "prefopt", command],
        cwd=tmp_path,
        env={
            "PREFOPT_ISA": "sse9",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(prefopt.__file__).resolve().parent.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"prefopt {command}: PREFOPT_ISA: ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_check_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    groups = {case["group"] for case in report["cases"]}
    for isa in prefopt.isas():
        for dtype in ("float16", "bfloat16", "float32", "float64"):
            assert f"token_logps {dtype} {isa}" in groups
    assert {f"loss {info.name}" for info in prefopt.losses()} <= groups


def test_check_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert "all as stored" in capsys.readouterr().out


def test_check_fails_on_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true_token_logps = prefopt.token_logps

    def off_by_little(*arguments: object, **keywords: object) -> prefopt.TokenLogps:
        out = true_token_logps(*arguments, **keywords)  # type: ignore[arg-type]
        return out._replace(lse=out.lse + np.float32(1e-5))

    monkeypatch.setattr(prefopt, "token_logps", off_by_little)
    assert main(["check"]) == 1
    assert "FAILED: " in capsys.readouterr().out


def test_a_loss_without_golden_values_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "golden", lambda: ())
    cases = list(_check.check_losses())
    assert {case.group for case in cases} == {f"loss {info.name}" for info in prefopt.losses()}
    assert not any(case.passed for case in cases)


def test_bench_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--rows", "4", "--vocab", "600", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["shape"] == [4, 600]
    assert all(seconds > 0 for seconds in report["median_seconds"].values())
    assert "prefopt log-probs" in report["median_seconds"]
    assert "NumPy log-probs" in report["median_seconds"]


def test_bench_on_cuda_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    state = prefopt.cuda_available()
    if state:
        pytest.skip("there is one: tests/gpu")
    assert main(["bench", "--device", "cuda"]) == 2
    assert f"no CUDA library: {state.reason}" in capsys.readouterr().err
