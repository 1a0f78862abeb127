"""Reads one preference pair out of a row in any of the common formats.

Formats, told apart by their keys and the types of the values (no option needed):

- TRL standard: ``prompt`` str, ``chosen`` str, ``rejected`` str; implicit prompt: no ``prompt``,
  the answers share a beginning, which becomes the prompt (cut back to the last white space, as TRL
  does).
- TRL conversational: the same keys holding lists of ``{"role", "content"}``; explicit or implicit
  prompt. A ``prompt`` string beside message lists that repeat it (UltraFeedback on the Hugging Face
  hub) is taken too.
- ShareGPT (LLaMA-Factory): ``conversations`` of ``{"from", "value"}``, ``chosen`` and ``rejected``
  one such turn.
- LLaMA-Factory v1: ``chosen_messages``, ``rejected_messages``; Alpaca: ``instruction`` and
  ``input`` for the prompt.
- HH-RLHF: ``chosen`` and ``rejected`` are whole dialogues of ``\\n\\nHuman: ...\\n\\nAssistant:
  ...``.

An unpaired row (``completion`` or ``label``) is an error: the study's scores need pairs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

Turn = tuple[str, str]  # (role, text), role one of ROLES
ROLES = ("system", "user", "assistant")
_ROLE_OF = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    # tool traffic is text that the assistant wrote or read; the study's small model needs no role
    # of its own for it
    "tool": "user",
    "observation": "user",
    "function": "user",
    "function_call": "assistant",
}
_SURROGATE = re.compile("[\ud800-\udfff]")  # a JSON escape can leave one; UTF-8 has none
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


class RowError(ValueError):
    """A row that is no preference pair; the caller adds file and row number."""


@dataclass(frozen=True)
class Pair:
    """One preference: the turns before the answer, the preferred answer, the other one."""

    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str
    source: str = ""

    @property
    def first_user_turn(self) -> str:
        """What the dialogue is about: the text by which duplicates are found."""
        return next((text for role, text in self.prompt if role == "user"), "")


def pair_from_row(row: Any, source: str = "") -> Pair:
    """One decoded JSON value to a Pair; RowError says in words why it is none."""
    if not isinstance(row, dict):
        raise RowError(f"expected a JSON object, got {type(row).__name__}")
    if "chosen_messages" in row or "rejected_messages" in row:
        row = {"chosen": row.get("chosen_messages"), "rejected": row.get("rejected_messages")}
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            if "completion" in row or "label" in row:
                raise RowError(
                    "an unpaired row (completion/label); the study needs chosen and rejected"
                )
            raise RowError(f"no {name!r} (keys: {', '.join(map(repr, row)) or 'none'})")
    prompt, chosen, rejected = _split_prompt(row)
    pair = Pair(prompt, chosen.strip(), rejected.strip(), source)
    for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not answer:
            raise RowError(f"the {name} answer is empty")
    texts = {"prompt": "".join(text for _, text in prompt), "chosen": chosen, "rejected": rejected}
    for name, text in texts.items():
        if _SURROGATE.search(text):
            raise RowError(f"{name} holds half of a surrogate pair, which is no text")
    if pair.chosen == pair.rejected:
        raise RowError("chosen and rejected are equal")
    return pair


def _split_prompt(row: dict[str, Any]) -> tuple[tuple[Turn, ...], str, str]:
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _text_answers(row, chosen, rejected)
    chosen_turns, rejected_turns = turns_of(chosen, "chosen"), turns_of(rejected, "rejected")
    prompt = _explicit_prompt(row)
    if prompt is None:
        shared = _shared_turns(chosen_turns, rejected_turns)
        prompt = chosen_turns[:shared]
    if chosen_turns[: len(prompt)] == prompt and rejected_turns[: len(prompt)] == prompt:
        chosen_turns, rejected_turns = chosen_turns[len(prompt) :], rejected_turns[len(prompt) :]
    return tuple(prompt), _answer(chosen_turns, "chosen"), _answer(rejected_turns, "rejected")


def _text_answers(
    row: dict[str, Any], chosen: str, rejected: str
) -> tuple[tuple[Turn, ...], str, str]:
    prompt = _explicit_prompt(row)
    if prompt is not None:
        return tuple(prompt), chosen, rejected
    if _HH_TURN.search(chosen) and _HH_TURN.search(rejected):
        return _hh_dialogues(chosen, rejected)
    shared = _shared_text(chosen, rejected)
    return (("user", chosen[:shared].strip()),), chosen[shared:], rejected[shared:]


def _explicit_prompt(row: dict[str, Any]) -> list[Turn] | None:
    """The prompt of a row that has one under any of the known names, else None."""
    for name in ("prompt", "conversations", "messages"):
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, str):
            return [("user", value)]
        turns = turns_of(value, name)
        system = row.get("system")
        if isinstance(system, str) and system:
            turns.insert(0, ("system", system))
        return turns
    for name in ("instruction", "question"):
        value = row.get(name)
        if isinstance(value, str):
            extra = row.get("input")
            return [("user", value + "\n" + extra if isinstance(extra, str) and extra else value)]
    return None


def turns_of(value: Any, name: str) -> list[Turn]:
    """A message, or a list of messages, of either spelling (role/content, from/value) to turns."""
    messages = value if isinstance(value, list) else [value]
    turns = []
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise RowError(
                f"{name}[{position}]: expected a message object, got {type(message).__name__}"
            )
        role = message.get("role", message.get("from"))
        if not isinstance(role, str) or role not in _ROLE_OF:
            raise RowError(f"{name}[{position}]: unknown role {role!r}")
        turns.append((_ROLE_OF[role], _message_text(message, f"{name}[{position}]")))
    return turns


def _message_text(message: dict[str, Any], where: str) -> str:
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # parts: [{"type": "text", "text" | "value": ...}]
        parts = [part.get("text", part.get("value")) for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    calls = message.get("tool_calls")
    if calls:
        content = (content or "") + json.dumps(calls, ensure_ascii=False)
    if not isinstance(content, str):
        raise RowError(f"{where}: expected text, got {type(content).__name__}")
    return content


def _answer(turns: list[Turn], name: str) -> str:
    return "\n".join(text for _, text in turns)


def _shared_turns(chosen: list[Turn], rejected: list[Turn]) -> int:
    """Length of the common beginning that leaves each side at least one turn."""
    limit = min(len(chosen), len(rejected)) - 1
    shared = 0
    while shared < limit and chosen[shared] == rejected[shared]:
        shared += 1
    return shared


def _shared_text(chosen: str, rejected: str) -> int:
    """Common beginning of two texts, cut back to the last white space so that no word is split."""
    limit = min(len(chosen), len(rejected))
    shared = 0
    while shared < limit and chosen[shared] == rejected[shared]:
        shared += 1
    while shared > 0 and not chosen[shared - 1].isspace():
        shared -= 1
    return shared


def hh_turns(dialogue: str) -> list[Turn]:
    """An HH-RLHF dialogue to turns; text before the first marker is dropped (there is none in the
    data).
    """
    pieces = _HH_TURN.split(dialogue)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [(roles[pieces[i]], pieces[i + 1].strip()) for i in range(1, len(pieces), 2)]


def _hh_dialogues(chosen: str, rejected: str) -> tuple[tuple[Turn, ...], str, str]:
    chosen_turns, rejected_turns = hh_turns(chosen), hh_turns(rejected)
    if chosen_turns[:-1] != rejected_turns[:-1]:
        raise RowError("HH dialogues that differ before the last answer")
    for name, turns in (("chosen", chosen_turns), ("rejected", rejected_turns)):
        if turns[-1][0] != "assistant":
            raise RowError(f"the {name} HH dialogue does not end with the assistant")
    return tuple(chosen_turns[:-1]), chosen_turns[-1][1], rejected_turns[-1][1]
