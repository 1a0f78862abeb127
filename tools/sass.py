"""Loops in the machine code that cuobjdump prints: what they load and how many instructions they are.

A loop is what a compiler's textbook calls a natural one: a branch back to an instruction that
every way to the branch passes. Branches back from code that is out of line (a diverged warp's, a
subroutine's) make none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

INSTRUCTION = re.compile(
    r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?P<guard>@!?U?P[T\d]+\s+)?(?P<opcode>[A-Z][\w.]*)(?P<rest>[^;]*);"
)
# Loads of global memory, through whatever address: the bits of each.
GLOBAL_LOAD = re.compile(r"^(?:LDG|LD)(?:\.\w+)*$")
# Arithmetic in double precision, conversions to and from it, and what divisions begin with.
DOUBLE = re.compile(r"^D(?:ADD|MUL|FMA|SETP|MNMX)\b|\.F64\b|^MUFU\.\w+64H")
WIDTH = re.compile(r"\.(?P<bits>8|16|32|64|128|256)\b|\.[US](?P<narrow>8|16)\b")


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str  # with its modifiers
    guarded: bool
    operands: str

    @property
    def load_bits(self) -> int:
        """0 if this loads nothing from global memory."""
        if not GLOBAL_LOAD.match(self.opcode):
            return 0
        found = WIDTH.search(self.opcode)
        return int(found["bits"] or found["narrow"]) if found else 32

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        if not re.match(r"BRA(\.|$)", self.opcode):
            return None
        found = re.findall(r"0x([0-9a-f]+)", self.operands)
        return int(found[-1], 16) if found else None

    @property
    def ends(self) -> bool:
        """Nothing follows it."""
        return not self.guarded and (
            re.match(r"(EXIT|RET|BRXU?|JMXU?|KILL)(\.|$)", self.opcode) is not None
            or (self.target is not None and "," not in self.operands and ".DIV" not in self.opcode)
        )


@dataclass
class Loop:
    instructions: int
    loads: dict[int, int] = field(default_factory=dict)  # by bits, how many
    doubles: int = 0  # instructions of double precision
    locals: int = 0  # loads and stores of local memory

    @property
    def wide_loads(self) -> int:
        return sum(count for bits, count in self.loads.items() if bits >= 128)

    @property
    def narrow_loads(self) -> int:
        return sum(count for bits, count in self.loads.items() if bits < 128)


def functions(text: str) -> Iterator[tuple[str, str, list[Instruction]]]:
    """(architecture, mangled name, instructions) of each function in cuobjdump -sass's output."""
    architecture, name, of_architecture = "", "", ""
    found: list[Instruction] = []
    for line in text.split("\n"):
        if match := re.match(r"\s*code for sm_(\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            if name:
                yield of_architecture, name, found
            name, found, of_architecture = match[1], [], architecture
        elif match := INSTRUCTION.match(line):
            found.append(
                Instruction(
                    int(match["address"], 16), match["opcode"], bool(match["guard"]), match["rest"]
                )
            )
    if name:
        yield of_architecture, name, found


def _successors(code: list[Instruction]) -> list[list[int]]:
    """By index: where each instruction can go on.

    The listing does not say where a jump by table (a switch) goes: to what nothing else leads to,
    from there up to the next such jump.
    """
    at = {instruction.address: i for i, instruction in enumerate(code)}
    targets = {instruction.target for instruction in code}
    by_table: int | None = None
    following = []
    for i, instruction in enumerate(code):
        next_ones = [] if instruction.ends or i + 1 == len(code) else [i + 1]
        if instruction.target is not None and instruction.target in at:
            next_ones.append(at[instruction.target])
        following.append(next_ones)
    for i, instruction in enumerate(code[:-1]):
        if re.match(r"(BRXU?|JMXU?)(\.|$)", instruction.opcode):
            by_table = i
        after = code[i + 1].address
        if instruction.ends and by_table is not None and after not in targets:
            following[by_table].append(i + 1)
    return following


def _dominators(following: list[list[int]]) -> list[int | None]:
    """Immediate dominators of what can be reached from instruction 0 (Cooper, Harvey, Kennedy)."""
    order: list[int] = []
    seen, stack = {0}, [(0, iter(following[0]))]
    while stack:
        node, rest = stack[-1]
        step = next((n for n in rest if n not in seen), None)
        if step is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(step)
            stack.append((step, iter(following[step])))
    rank = {node: i for i, node in enumerate(order)}
    before: list[list[int]] = [[] for _ in following]
    for node in order:
        for n in following[node]:
            before[n].append(node)
    dominator: list[int | None] = [None] * len(following)
    dominator[0] = 0
    changed = True
    while changed:
        changed = False
        for node in reversed(order[:-1]):
            known = [p for p in before[node] if dominator[p] is not None]
            best = known[0]
            for other in known[1:]:
                while best != other:
                    while rank[best] < rank[other]:
                        best = dominator[best] or 0
                    while rank[other] < rank[best]:
                        other = dominator[other] or 0
            if dominator[node] != best:
                dominator[node], changed = best, True
    return dominator


def _dominates(dominator: list[int | None], a: int, b: int) -> bool:
    node: int | None = b
    while node is not None and node != a:
        if node == 0:
            return False
        node = dominator[node]
    return node == a


def innermost_loops(code: list[Instruction]) -> list[Loop]:
    """The loops that contain no other, in the order of their heads; ValueError if it cannot follow."""
    if not code:
        return []
    following = _successors(code)
    dominator = _dominators(following)
    if any(each.load_bits and dominator[i] is None for i, each in enumerate(code)):
        raise ValueError("a load of global memory that no way leads to: sass.py misses a branch")
    before: list[list[int]] = [[] for _ in code]
    for node, next_ones in enumerate(following):
        for n in next_ones:
            before[n].append(node)
    bodies: dict[int, set[int]] = {}
    for tail, next_ones in enumerate(following):
        for head in next_ones:
            # A branch to itself ends every function: padding.
            if head >= tail or dominator[tail] is None or not _dominates(dominator, head, tail):
                continue
            body, todo = bodies.setdefault(head, {head}), [tail]
            while todo:
                node = todo.pop()
                if node not in body:
                    body.add(node)
                    todo += before[node]
    loops = []
    for head, body in sorted(bodies.items()):
        if any(other != head and other in body for other in bodies):
            continue
        loop = Loop(len(body))
        for i in body:
            if bits := code[i].load_bits:
                loop.loads[bits] = loop.loads.get(bits, 0) + 1
            loop.locals += re.match(r"(LDL|STL)\b", code[i].opcode) is not None
            loop.doubles += DOUBLE.search(code[i].opcode) is not None
        loops.append(loop)
    return loops
