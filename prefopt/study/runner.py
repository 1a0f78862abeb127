"""Runs a plan's tasks on worker processes, in an order that respects what needs what.

The results do not depend on the number of workers or on which of them does a task: every task is a
function of its own seed and of files that earlier tasks wrote.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .config import Plan, Training
from .progress import Progress

ONE_THREAD = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
STOP_SECONDS = 10


class WorkerFailed(RuntimeError):
    """A worker ended or reported an error; the message says on which task."""


@dataclass(frozen=True)
class Task:
    """A message for a worker, the file that says it is done, the tasks it waits for, its cost in
    tokens learnt.
    """

    name: str
    message: dict[str, Any]
    done_file: Path
    needs: tuple[str, ...]
    cost: float


def tasks_of(plan: Plan, folder: Path, base_tokens: int, answer_tokens: float) -> list[Task]:
    """Every task of the plan in order of preference. base_tokens: length of the pretraining text;
    answer_tokens: mean length of a cut answer (both only weigh the progress bar)."""
    training = plan.training
    tasks = [Task("text baselines", {"kind": "text"}, folder / "text.json", (), base_tokens / 50)]
    for seed in plan.seeds:
        base = f"base model, seed {seed}"
        path = folder / f"s{seed}-base.npy"
        cost = float(base_tokens * training.base_epochs)
        tasks.append(Task(base, {"kind": "base", "seed": seed}, path, (), cost))
        starts = {"base": base}
        for start in plan.scenarios:
            if start == "base":
                continue
            starts[start] = f"{start} model, seed {seed}"
            message = {"kind": "tune", "start": start, "seed": seed}
            cost = 600 * answer_tokens * (training.tune_epochs + 1)
            path = folder / f"s{seed}-{start}.npy"
            tasks.append(Task(starts[start], message, path, (base,), cost))
        for cell in (cell for cell in plan.cells if cell.seed == seed):
            learnt = (1.6 if cell.method == "kto" else 1.0) * cell.size * training.align_epochs
            cost = 2 * answer_tokens * (learnt + (250 + min(cell.size, training.train_scored)) / 3)
            path = folder / "cells" / f"{cell.name}.json"
            message = {"kind": "cell", **asdict(cell)}
            tasks.append(Task(cell.name, message, path, (starts[cell.scenario],), cost))
    # models first, seed by seed: whatever waits for them can then start on any idle worker
    return sorted(
        tasks, key=lambda task: {"text": 0, "base": 0, "tune": 1, "cell": 2}[task.message["kind"]]
    )


class _Worker:
    """A child process and the thread that reads it."""

    def __init__(
        self, number: int, setup: dict[str, Any], inbox: queue.Queue[tuple[int, dict[str, Any]]]
    ) -> None:
        self.number = number
        self.task: Task | None = None
        self.ready = False
        root = str(Path(__file__).resolve().parents[2])
        environment = dict(os.environ) | dict.fromkeys(ONE_THREAD, "1")
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [root, os.environ.get("PYTHONPATH")])
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prefopt.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        self.send(setup)
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: the reader thread says so
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _read(self, inbox: queue.Queue[tuple[int, dict[str, Any]]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            inbox.put((self.number, json.loads(line)))
        inbox.put((self.number, {"event": "ended"}))

    def ended_with(self) -> int:
        return self._process.wait()

    def stop(self) -> None:
        """End it now; what it was writing stays unwritten."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                with suppress(BrokenPipeError):
                    stream.close()


@contextmanager
def _workers(
    count: int, setup: dict[str, Any], inbox: queue.Queue[tuple[int, dict[str, Any]]]
) -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        for number in range(count):
            workers.append(_Worker(number, setup, inbox))  # noqa: PERF401 (each must be stopped)
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def run_tasks(
    tasks: list[Task],
    folder: Path,
    token_file: Path,
    training: Training,
    jobs: int,
    progress: Progress,
) -> int:
    """Do every task whose file is not there yet; returns how many were already done."""
    finished = {task.name for task in tasks if task.done_file.exists()}
    waiting = [task for task in tasks if task.name not in finished]
    progress.begin([(task.name, task.cost) for task in tasks], finished)
    if not waiting:
        return len(finished)
    setup = {"folder": str(folder), "token_file": str(token_file), "training": asdict(training)}
    inbox: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    already = len(finished)
    with _workers(min(jobs, len(waiting)), setup, inbox) as workers:
        while waiting or any(worker.task for worker in workers):
            number, message = inbox.get()
            _handle(workers[number], message, finished, progress)
            for worker in workers:
                if worker.ready and worker.task is None:
                    _give_task(worker, waiting, finished)
    return already


def _handle(
    worker: _Worker, message: dict[str, Any], finished: set[str], progress: Progress
) -> None:
    name = worker.task.name if worker.task else "start"
    event = message["event"]
    if event == "progress":
        progress.update(name, message["share"])
    elif event == "done":
        worker.ready = True
        if worker.task is not None:
            finished.add(name)
            progress.finish(name)
            worker.task = None
    elif event == "error":
        raise WorkerFailed(f"{name}: {message['message']}")
    else:
        raise WorkerFailed(f"{name}: the worker process ended with code {worker.ended_with()}")


def _give_task(worker: _Worker, waiting: list[Task], finished: set[str]) -> None:
    for task in waiting:
        if all(name in finished for name in task.needs):
            waiting.remove(task)
            worker.task = task
            worker.send(task.message)
            return
