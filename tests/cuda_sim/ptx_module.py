"""What a PTX text declares: files, variables, kernels with their bodies still as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}  # bytes of a type, by its bits


class Refused(Exception):
    """An instruction or directive of a form that is not known."""


@dataclass
class Variable:
    """A module's array: shared, or constant data."""

    name: str
    alignment: int
    size: int | None  # bytes; None: dynamic shared memory
    words: tuple[str, int, list[str]] | None = None  # C type, element bytes, values; None: shared


@dataclass
class Kernel:
    name: str
    parameters: list[int]  # bytes of each
    max_threads: int
    body: str


@dataclass
class Module:
    files: dict[int, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)


PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.([bus]8|[a-z]\d+)(?:\s+\.ptr[^,]*?)?\s+[\w$]+(?:\[(\d+)\])?\s*$"
)
VARIABLE = re.compile(
    r"(?:\.extern\s+|\.visible\s+|\.weak\s+)*\.(?P<space>shared|const|global)\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<type>[bus](?:8|16|32|64)|f32|f64)\s+(?P<name>[\w$]+)(?:\[(?P<count>\d*)\])?"
    r"(?:\s*=\s*(?:\{(?P<values>[^}]*)\}|(?P<value>[^;]+)))?$"
)


def _blocks(text: str) -> Iterator[tuple[str, str | None]]:
    """(declaration, body or None) of everything at the top level."""
    start, at = 0, 0
    while at < len(text):
        if text[at] == ";":
            yield text[start:at].strip(), None
            start = at + 1
        elif text[at] == "{" and "=" not in text[start:at]:
            depth, begin = 1, at + 1
            while depth:
                at += 1
                depth += {"{": 1, "}": -1}.get(text[at], 0)
            yield text[start : begin - 1].strip(), text[begin:at]
            start = at + 1
        at += 1


def _parameter_bytes(declaration: str) -> int:
    match = PARAMETER.match(declaration.strip())
    if match is None:
        raise Refused(f"parameter: {declaration.strip()}")
    element = SIZES[re.sub(r"\D", "", match[2])]
    return element * int(match[3] or 1)


def _variable(declaration: str) -> Variable:
    match = VARIABLE.match(declaration)
    if match is None:
        raise Refused(f"declaration: {declaration}")
    kind = match["type"]
    element = SIZES[kind[1:]]
    count = int(match["count"]) if match["count"] else None if match["count"] == "" else 1
    size = None if count is None else count * element
    words = None
    if match["space"] != "shared":
        values = (match["values"] or match["value"] or "").split(",")
        words = (f"uint{8 * element}_t", element, [v.strip() for v in values if v.strip()])
    return Variable(match["name"], int(match["align"] or element), size, words)


def parse(text: str) -> Module:
    """The files, variables and kernels of a PTX text."""
    module = Module()
    text = re.sub(r"//[^\n]*", "", text)
    for match in re.finditer(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', text, re.MULTILINE):
        module.files[int(match[1])] = match[2]
    # These end with their line, not with a semicolon.
    text = re.sub(r"^\s*\.(version|target|address_size|file)\b[^\n]*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*\.section\b[^{]*\{[^}]*\}", "", text, flags=re.MULTILINE)
    for declaration, body in _blocks(text):
        entry = re.match(
            r"(?:\.visible\s+|\.weak\s+)*\.entry\s+([\w$]+)\s*\(([^)]*)\)(.*)",
            declaration,
            re.DOTALL,
        )
        if entry is not None and body is not None:
            parameters = [_parameter_bytes(p) for p in entry[2].split(",") if p.strip()]
            threads = re.search(r"\.maxntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", entry[3])
            limit = 0
            if threads is not None:
                limit = int(threads[1]) * int(threads[2] or 1) * int(threads[3] or 1)
            # A shared variable of one kernel alone is declared in its body.
            for inner in re.finditer(r"\.shared\s[^;]*", body):
                variable = _variable(inner[0].strip())
                module.variables[variable.name] = variable
            body = re.sub(r"\.shared\s[^;]*;", "", body)
            module.kernels.append(Kernel(entry[1], parameters, limit, body))
        elif (
            declaration.startswith((".shared", ".extern", ".const", ".global", ".visible", ".weak"))
            and body is None
        ):
            variable = _variable(declaration)
            module.variables[variable.name] = variable
        elif declaration:
            raise Refused(f"declaration: {declaration.splitlines()[0]}")
    return module
