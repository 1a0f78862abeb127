"""Cuts the study's shipped data out of the public files: ``python -m prefopt.study.cut FOLDER``.

FOLDER holds dpo_en_demo.json, kto_en_demo.json (LLaMA-Factory, Apache-2.0) and
hh_rlhf_helpful_base_test.first500.jsonl (HH-RLHF, MIT). Rows are taken whole. A row is left out
when it is no pair (empty or equal answers, HH dialogues that differ before the last answer) or its
prompt duplicates an earlier one (data.PromptIndex); what stays is split by a hash of the prompt, so
no prompt is on two sides. Of the KTO file the desirable half is taken, less what duplicates a
prompt of either side.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from .data import (
    INSTRUCT_FILE,
    PAIRS_FILE,
    PromptIndex,
    dialogue_text,
    prompt_key,
    read_rows,
    split_of,
)
from .formats import RowError, Turn, pair_from_row, turns_of

PAIR_SOURCES = {
    "llamafactory_dpo_en_demo": "dpo_en_demo.json",
    "hh_rlhf_helpful_base_test": "hh_rlhf_helpful_base_test.first500.jsonl",
}


def _messages(turns: tuple[Turn, ...] | list[Turn]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def cut_pairs(folder: Path, index: PromptIndex) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The pair rows in file order, and how many went where."""
    rows, counts = [], Counter[str]()
    for source, name in PAIR_SOURCES.items():
        for number, row in read_rows(folder / name):
            try:
                pair = pair_from_row(row)
            except RowError as error:
                counts[f"{source}: {error}"] += 1
                continue
            text = dialogue_text(pair.prompt)
            if not index.add(text):
                counts[f"{source}: duplicate prompt"] += 1
                continue
            side = split_of(prompt_key(text))
            counts[f"{source}: {side}"] += 1
            rows.append(
                {
                    "source": source,
                    "row": number,
                    "split": side,
                    "prompt": _messages(pair.prompt),
                    "chosen": [{"role": "assistant", "content": pair.chosen}],
                    "rejected": [{"role": "assistant", "content": pair.rejected}],
                }
            )
    return rows, counts


def cut_instruct(folder: Path, index: PromptIndex) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The desirable dialogues whose prompts are on neither side."""
    rows, counts = [], Counter[str]()
    for number, row in read_rows(folder / "kto_en_demo.json"):
        if not row["label"]:
            continue
        turns = turns_of(row["messages"], "messages")
        answer = turns[-1][1].strip()
        if turns[-1][0] != "assistant" or not answer:
            counts["kto: no answer"] += 1
        elif not index.add(dialogue_text(turns)):
            counts["kto: duplicate prompt"] += 1
        else:
            counts["kto: instruct"] += 1
            rows.append(
                {
                    "source": "llamafactory_kto_en_demo",
                    "row": number,
                    "prompt": _messages(turns[:-1]),
                    "answer": answer,
                }
            )
    return rows, counts


def main() -> int:
    """Write both files and print what was kept."""
    parser = argparse.ArgumentParser(description="cut the study's shipped data")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    index = PromptIndex()
    pairs, counts = cut_pairs(folder, index)
    instruct, more = cut_instruct(folder, index)
    for path, rows in ((PAIRS_FILE, pairs), (INSTRUCT_FILE, instruct)):
        lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
    for what, count in sorted((counts + more).items()):
        print(f"{count:5d}  {what}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
