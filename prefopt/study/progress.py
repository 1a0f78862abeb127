"""A progress bar for the whole run: rich where installed, else a plain one; plain lines where there
is no terminal.
"""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

LINE_SECONDS = 5.0  # without a terminal at most one line in this time, and the last


class Progress:
    """Share of the work done, weighted by cost. This class prints nothing; the others draw."""

    def __init__(self) -> None:
        self.costs: dict[str, float] = {}
        self.done = 0.0
        self.total = 0.0
        self.finished = 0
        self._running: dict[str, float] = {}

    def begin(self, tasks: list[tuple[str, float]], finished: set[str]) -> None:
        """All tasks with their costs, and those already done."""
        self.costs = dict(tasks)
        self.total = sum(self.costs.values())
        self.done = sum(self.costs[name] for name in finished)
        self.finished = len(finished)
        self.draw("")

    def update(self, name: str, share: float) -> None:
        """A task got this far."""
        self._running[name] = share
        self.draw(name)

    def finish(self, name: str) -> None:
        """A task is done."""
        self._running.pop(name, None)
        self.done += self.costs[name]
        self.finished += 1
        self.draw(name)

    @property
    def share(self) -> float:
        """Of all the work, 0 to 1."""
        running = sum(self.costs[name] * share for name, share in self._running.items())
        return (self.done + running) / self.total if self.total else 1.0

    def draw(self, name: str) -> None:
        """Show the state; `name` is the task that moved."""

    def close(self) -> None:
        """Leave the terminal in order."""


class LineProgress(Progress):
    """For logs: a line now and then."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._last = stream, -LINE_SECONDS

    def draw(self, name: str) -> None:
        now = time.monotonic()
        last_one = self.finished == len(self.costs)
        if now - self._last < LINE_SECONDS and not last_one:
            return
        self._last = now
        print(
            f"[{self.finished}/{len(self.costs)}] {self.share:4.0%}  {name}",
            file=self._stream,
            flush=True,
        )


class BarProgress(Progress):
    """For a terminal without rich."""

    WIDTH = 32

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._began = stream, time.monotonic()

    def draw(self, name: str) -> None:
        filled = round(self.WIDTH * self.share)
        bar = "#" * filled + "-" * (self.WIDTH - filled)
        seconds = time.monotonic() - self._began
        text = f"{bar} {self.share:4.0%} {self.finished}/{len(self.costs)} {seconds:4.0f} s  {name}"
        self._stream.write("\r" + text[:99].ljust(99))
        self._stream.flush()

    def close(self) -> None:
        self._stream.write("\n")
        self._stream.flush()


class RichProgress(Progress):
    """The bar of the rich package."""

    def __init__(self, rich_progress: Any, console: Any) -> None:
        super().__init__()
        columns = (
            rich_progress.BarColumn(bar_width=36),
            rich_progress.TaskProgressColumn(),
            rich_progress.TextColumn("{task.fields[count]}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("{task.description}"),
        )
        self._bar = rich_progress.Progress(*columns, console=console)
        self._task = self._bar.add_task("", total=1.0, count="")
        self._bar.start()

    def draw(self, name: str) -> None:
        count = f"{self.finished}/{len(self.costs)}"
        self._bar.update(self._task, completed=self.share, description=name, count=count)

    def close(self) -> None:
        self._bar.stop()


def progress_for(stream: TextIO | None = None) -> Progress:
    """The best bar for the stream (default stderr)."""
    stream = stream or sys.stderr
    if not stream.isatty():
        return LineProgress(stream)
    try:
        import rich.console
        import rich.progress
    except ImportError:
        return BarProgress(stream)
    return RichProgress(rich.progress, rich.console.Console(file=stream))
