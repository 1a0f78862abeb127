"""Answers requests for a peer's numbers, one JSON line each, from stdin: python -m peers.worker."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The runner's result, or {"error": "Type: text"} where the project's code raises."""
    runner = importlib.import_module(f"peers.{request['runner']}")
    try:
        result: dict[str, Any] = runner.run(
            request["loss"], request["inputs"], request["params"], request["dtype"]
        )
    except Exception as error:  # whatever the project raises is the answer
        return {"error": f"{type(error).__name__}: {error}"}
    return result


def main() -> None:
    # The projects print; only answers may reach the pipe.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        pipe.write(json.dumps(answer(json.loads(line))) + "\n")
        pipe.flush()


if __name__ == "__main__":
    main()
