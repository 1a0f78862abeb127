"""Command line: ``python -m prefopt {study,check,bench,doctor,explain}``.

Exit codes: 0 all well, 1 something that was checked is wrong, 2 the command could not be carried
out (bad arguments, missing file, absent library).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


def _run_doctor(arguments: argparse.Namespace) -> int:
    from prefopt import _doctor

    return _doctor.run(as_json=arguments.json)


def _run_check(arguments: argparse.Namespace) -> int:
    from prefopt import _check

    return _check.run(as_json=arguments.json, verbose=arguments.verbose)


def _run_bench(arguments: argparse.Namespace) -> int:
    from prefopt import _bench

    return _bench.run(
        rows=arguments.rows,
        vocab=arguments.vocab,
        hidden=arguments.hidden,
        repeats=arguments.repeats,
        device=arguments.device,
        as_json=arguments.json,
    )


def _run_explain(arguments: argparse.Namespace) -> int:
    from prefopt import _explain

    return _explain.run(
        arguments.file,
        arguments.value,
        settings=arguments.settings,
        losses=arguments.losses,
        rtol=arguments.rtol,
        as_json=arguments.json,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number >= 1, got {text}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every subcommand (``study`` parses its own arguments, see ``main``)."""
    import prefopt

    parser = argparse.ArgumentParser(
        prog="python -m prefopt",
        description="Exact, fast token log-probabilities and preference losses.",
        epilog="Exit codes: 0 all well, 1 a check failed, 2 the command could not be carried out.",
    )
    parser.add_argument("--version", action="version", version=f"prefopt {prefopt.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    commands.add_parser(
        "study",
        add_help=False,
        help="train and compare DPO, IPO, KTO and CPO on real preference pairs; writes a report",
    )
    check = add(
        "check",
        _run_check,
        "recompute stored reference values here: every usable ISA row, dtype, loss",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    check.add_argument(
        "-v", "--verbose", action="store_true", help="print every case, not a summary"
    )

    bench = add(
        "bench",
        _run_bench,
        "time the kernels on this machine, beside NumPy and torch, TRL if there",
    )
    bench.add_argument("--rows", type=_positive, default=256, help="tokens (default: %(default)s)")
    bench.add_argument("--vocab", type=_positive, default=151936, help="default: %(default)s")
    bench.add_argument(
        "--hidden",
        type=_positive,
        default=2048,
        help="width of hidden states for the linear op, on cuda alone (default: %(default)s)",
    )
    bench.add_argument(
        "--repeats", type=_positive, default=7, help="median of (default: %(default)s)"
    )
    bench.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s"
    )
    bench.add_argument("--json", action="store_true", help="print one JSON object, not a table")

    doctor = add(
        "doctor", _run_doctor, "say what this installation runs on: ISA, threads, integrations"
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object, not text")

    _add_explain(
        add("explain", _run_explain, "say which loss and convention gave a number, from log-probs")
    )
    return parser


def _add_explain(explain: argparse.ArgumentParser) -> None:
    explain.epilog = "Exit codes: 0 found, 1 no known loss gives the number, 2 bad input."
    explain.add_argument(
        "file",
        metavar="FILE",
        help=".json or .npz: log-probs and parameters under the names of prefopt.losses()",
    )
    explain.add_argument(
        "--value",
        required=True,
        metavar="X[,X...]",
        help="the number printed (its digits count), or one a pair",
    )
    explain.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NAME=VALUE",
        help="a parameter that the file does not have; may be repeated",
    )
    explain.add_argument(
        "--losses", nargs="+", default=(), metavar="NAME", help="only these (dpo.ipo) or families"
    )
    explain.add_argument(
        "--rtol", type=float, default=1e-6, help="still the same number (default: %(default)s)"
    )
    explain.add_argument("--json", action="store_true", help="print one JSON object, not text")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. argv: arguments without the program name (default: sys.argv[1:]).

    Returns the exit code; argparse raises SystemExit(2) on bad arguments and SystemExit(0) on
    --help.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["study"]:
        from prefopt import study

        return int(study.main(arguments[1:]))
    parsed = build_parser().parse_args(arguments)
    if parsed.command in ("check", "bench"):
        from prefopt import _doctor

        problem = _doctor.chosen_isa()[1]
        if problem is not None:
            print(f"prefopt {parsed.command}: {problem}", file=sys.stderr)
            return EXIT_USAGE
    return int(parsed.run(parsed))


if __name__ == "__main__":
    sys.exit(main())
