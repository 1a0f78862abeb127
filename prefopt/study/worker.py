"""One worker process: ``python -m prefopt.study.worker``, spoken to by runner.py in lines of JSON.

First line in: {"folder", "token_file", "training"}. Then one task a line: {"kind": "text" | "base"
| "tune" | "cell", ...}. Lines out: {"event": "progress", "share"}, {"event": "done"}, {"event":
"error", "message"}. It ends when its input does, so a killed parent leaves none behind. BLAS and
OpenMP are held to one thread by the environment the parent gives: cells run side by side, and one
BLAS thread means that the bytes do not depend on the machine's load or core count.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from .atomic import write_json
from .config import Cell, training_from_dict
from .errors import Diverged
from .phases import Workbench, text_baselines

PROGRESS_SECONDS = 0.25


class _Reporter:
    """Sends the share done, at most four times a second."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self._last >= PROGRESS_SECONDS:
            self._last = now
            send({"event": "progress", "share": share})


def send(message: dict[str, Any]) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def run_task(bench: Workbench, task: dict[str, Any]) -> None:
    """Do one piece of work; its result is a file in the run's folder."""
    kind = task["kind"]
    if kind == "text":
        write_json(bench.folder / "text.json", text_baselines(bench))
    elif kind == "base":
        bench.make_base(task["seed"], _Reporter())
    elif kind == "tune":
        bench.make_tuned(task["seed"], task["start"], _Reporter())
    else:
        bench.run_cell(
            Cell(task["scenario"], task["method"], task["size"], task["seed"]), _Reporter()
        )


def main() -> int:
    """Serve tasks until the input ends."""
    bench: Workbench | None = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if bench is None:
                training = training_from_dict(message["training"])
                bench = Workbench(Path(message["folder"]), Path(message["token_file"]), training)
            else:
                run_task(bench, message)
        except BrokenPipeError:
            raise
        except Diverged as error:
            send({"event": "error", "message": str(error)})
            return 1
        except Exception as error:
            traceback.print_exc()
            send({"event": "error", "message": f"{type(error).__name__}: {error}"})
            return 1
        send({"event": "done"})
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (BrokenPipeError, KeyboardInterrupt):  # the parent is gone, or the user stopped the run
        os._exit(1)  # at once: the interpreter's own end would complain about the broken pipe
