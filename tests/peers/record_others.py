"""Records what projects that are not run in CI compute: python tests/peers/record_others.py FOLDER.

FOLDER holds their source trees at the commits of others/common.py under these names: halos,
llama_factory, openrlhf, torchtune, nemo_rl, and trl_0_24 (the unpacked wheel of trl 0.24.0). The
definitions that make up a loss are taken out of their files by name and run as they are, on
stand-ins for the trainer around them: many of these packages cannot be installed side by side, or
ask for a GPU.
Writes recorded.json beside this file: inputs, value, gradient and rewards as the project gave them,
with convention (project and commit), file and this script.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.others.common import PROJECTS, Recorder, Source, seed


def main() -> None:
    record = Recorder()
    for project in PROJECTS:
        seed(project)
        module = importlib.import_module(f"peers.others.{project}")
        module.record_all(record, Source(Path(sys.argv[1]), project))
    lines = ",\n".join(json.dumps(row) for row in record.rows)
    Path(__file__).with_name("recorded.json").write_text(f"[\n{lines}\n]\n")
    print(len(record.rows), "recorded")


if __name__ == "__main__":
    main()
