"""The statements of one PTX kernel as C++ (see ptx2cpp.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ptx_module import SIZES, Kernel, Module, Refused

SPECIAL = {
    **{f"%tid.{axis}": f"threadIdx.{axis}" for axis in "xyz"},
    **{f"%ctaid.{axis}": f"blockIdx.{axis}" for axis in "xyz"},
    **{f"%ntid.{axis}": f"blockDim.{axis}" for axis in "xyz"},
    **{f"%nctaid.{axis}": f"gridDim.{axis}" for axis in "xyz"},
    "%laneid": "ptx::lane_id()",
}
REGISTER_TYPES = {
    "pred": "pred",
    **dict.fromkeys(("b16", "u16", "s16", "f16", "bf16"), "b16"),
    **dict.fromkeys(("b32", "u32", "s32", "f32", "f16x2", "bf16x2"), "b32"),
    **dict.fromkeys(("b64", "u64", "s64", "f64"), "b64"),
}
# Hints change no value; a volatile or an ordered access is another matter and is not here.
CACHE = (
    r"(?:\.ca|\.cg|\.cs|\.lu|\.wb|\.wt|\.nc|\.L1::no_allocate|\.L1::evict_last|\.L1::evict_first)*"
)
TYPE = r"\.(?P<type>[bus](?:8|16|32|64)|f32|f64)"
MEMORY = re.compile(
    r"(?P<what>ld|st)(?:\.(?P<space>global|shared|local|param|const))?"
    + CACHE
    + r"(?:\.v(?P<count>2|4|8))?"
    + TYPE
)
ATOMIC = re.compile(
    r"(?P<what>atom|red)(?:\.relaxed(?:\.gpu)?)?\.(?P<space>global|shared)\."
    r"(?P<op>add|min|max|and|or|xor|exch|inc|cas)\.(?P<type>[bus](?:32|64))"
)
# Instructions without a destination.
STATEMENTS = {"bar.sync", "bar.warp.sync", "membar.gl"}
REDUCTIONS = re.compile(r"(?P<op>bar\.red\.(?:popc\.u32|and\.pred|or\.pred))")


class Places:
    """The line of the .cu that each instruction came from."""

    LOC = re.compile(
        r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)(?:\s*,\s*function_name\s+[^,]+,\s*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?"
    )

    def __init__(self, files: dict[int, str]) -> None:
        self.files = files
        self.callers: dict[tuple[str, str, str], tuple[str, str, str] | None] = {}

    def is_toolkit(self, number: str) -> bool:
        path = self.files.get(int(number), "")
        return (
            bool(re.search(r"/include/(crt/|cuda_|sm_\d|device_|math_|vector_)[\w.]*$", path))
            or "/crt/" in path
        )

    def line_of(self, directive: str) -> str | None:
        """The #line for a .loc directive; None where only NVIDIA's headers are known."""
        match = self.LOC.match(directive)
        if match is None:
            raise Refused(directive)
        place: tuple[str, str, str] | None = (match[1], match[2], match[3])
        self.callers[(match[1], match[2], match[3])] = (
            (match[4], match[5], match[6]) if match[4] else None
        )
        while place is not None and self.is_toolkit(place[0]):
            place = self.callers.get(place)
        if place is None or int(place[1]) == 0:
            return None
        return f'#line {place[1]} "{self.files[int(place[0])]}"'


class Body:
    """Translates the statements of one kernel."""

    def __init__(self, module: Module, kernel: Kernel) -> None:
        self.module, self.kernel = module, kernel
        words = set(re.findall(r"[\w$]+", kernel.body))
        self.shared = [v for v in module.variables.values() if v.words is None and v.name in words]
        self.local: set[str] = set()
        self.types: dict[str, str] = {}  # of registers, by their C++ names
        self.scopes: list[set[str]] = [set()]  # registers that were declared alone, innermost last
        self.tables: dict[str, list[str]] = {}

    # -- operands --

    def register(self, name: str) -> str:
        """An element of an array (a compiler is slow with thousands of variables), or a variable if
        it was declared alone, which inline assembly does in a scope of its own."""
        match = re.fullmatch(r"%([A-Za-z]+)(\d+)", name)
        if match and not any(name in scope for scope in self.scopes):
            return f"v_{match[1]}[{match[2]}]"
        return f"n_{name.removeprefix('%')}"

    def assign(self, name: str) -> str:
        """The beginning of "register = out<type>(" for a value to follow."""
        register = self.register(name)
        return f"{register} = out<{self.types[register.partition('[')[0]]}>"

    def symbol(self, name: str) -> str | None:
        """The address of a variable or parameter, as C++."""
        for number, variable in enumerate(self.shared):
            if variable.name == name:
                return f"int64_t(window.address({number}))"
        if name in self.local or name in self.module.variables:
            return f"int64_t(&{name})"
        match = re.fullmatch(re.escape(self.kernel.name) + r"_param_(\d+)", name)
        return f"int64_t(parameters[{match[1]}])" if match else None

    def operand(self, text: str) -> str:
        if text in SPECIAL:
            return f"in({SPECIAL[text]})"
        if match := re.fullmatch(r"0f([0-9a-fA-F]{8})", text):
            return f"in(b32(0x{match[1]}u))"
        if match := re.fullmatch(r"0d([0-9a-fA-F]{16})", text):
            return f"in(b64(0x{match[1]}u))"
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
            return f"Constant{{int64_t({text.removesuffix('U')})}}"
        if text.startswith("!"):
            return f"in(pred(!{self.register(text[1:])}))"
        if (address := self.symbol(text)) is not None:
            return f"Constant{{{address}}}"
        if re.fullmatch(r"%?[A-Za-z_$][\w$]*", text):
            return f"in({self.register(text)})"
        raise Refused(f"operand {text}")

    def address(self, text: str) -> str:
        """[register + offset], [symbol + offset]."""
        match = re.fullmatch(r"\[\s*(%?[\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if match is None:
            raise Refused(f"address {text}")
        base = self.symbol(match[1]) or self.register(match[1])
        return f"u64({base}) + {match[2] or 0}"

    # -- statements of their own syntax --

    def memory(self, match: re.Match[str], operands: list[str]) -> str:
        what, space, kind = match["what"], match["space"], match["type"]
        function = {"shared": "window.", "global": "ptx::"}.get(space, "ptx::")
        function += {"ld": "load", "st": "store"}[what] + ("_global" if space == "global" else "")
        shape = f"<{kind}, {match['count'] or 1}>"
        if function.startswith("window."):
            function = function.replace("window.", "window.template ")
        where, what_moves = (1, 0) if what == "ld" else (0, 1)
        parts = operands[what_moves].strip("{}").split(",")
        parts = [part.strip() for part in parts]
        if len(parts) != int(match["count"] or 1):
            raise Refused(" ".join([match.group(), *operands]))
        address = self.address(operands[where])
        if what == "st":
            values = ", ".join(f"stored<{kind}>({self.operand(part)})" for part in parts)
            return f"{function}{shape}({address}, {{{{{values}}}}});"
        targets = "".join(
            f" {self.assign(part)}(loaded.value[{i}]);"
            for i, part in enumerate(parts)
            if part != "_"
        )
        return f"{{ const auto loaded = {function}{shape}({address});{targets} }}"

    def atomic(self, match: re.Match[str], operands: list[str]) -> str:
        result = operands.pop(0) if match["what"] == "atom" else "_"
        address = self.address(operands[0])
        if match["space"] == "shared":
            address = f"window.host({address}, {SIZES[match['type'][1:]]}, Place::here())"
        values = ", ".join(self.operand(text) for text in operands[1:])
        call = f"ptx::atom_{match['op']}_{match['type']}({address}, {values})"
        return f"{call};" if result == "_" else f"{self.assign(result)}({call});"

    def pack(self, form: str, operands: list[str]) -> str:
        """mov between one register and the parts of one, lowest first."""
        bits = int(form.removeprefix("mov.b"))
        target, source = operands
        vector = target if target.startswith("{") else source
        parts = [part.strip() for part in vector.strip("{}").split(",")]
        each = bits // len(parts)
        if target.startswith("{"):
            moves = "".join(
                f" {self.assign(part)}(b{each}(whole >> {i * each}));"
                for i, part in enumerate(parts)
                if part != "_"
            )
            return f"{{ const b{bits} whole = {self.operand(source)};{moves} }}"
        terms = [f"b{bits}(b{each}({self.operand(p)})) << {i * each}" for i, p in enumerate(parts)]
        return f"{self.assign(target)}(b{bits}({' | '.join(terms)}));"

    def compare(self, form: str, operands: list[str]) -> str:
        """setp, with a second predicate (setp.lt.and.f32) or a second result (p|q) perhaps."""
        parts = form.split(".")
        combine = ""
        if parts[2] in ("and", "or", "xor"):
            symbol = {"and": "&", "or": "|", "xor": "^"}[parts.pop(2)]
            combine = f" {symbol} pred({self.operand(operands[3])})"
        call = f"ptx::{'_'.join(parts)}({self.operand(operands[1])}, {self.operand(operands[2])})"
        first, *second = [self.register(name.strip()) for name in operands[0].split("|")]
        if not second:
            return f"{first} = {call}{combine};"
        return f"{{ const pred held = {call}; {first} = held{combine}; {second[0]} = !held{combine}; }}"

    def shuffle(self, form: str, operands: list[str]) -> str:
        first, *second = operands[0].split("|")
        arguments = ", ".join(self.operand(text) for text in operands[1:])
        text = f"const auto got = ptx::{form.replace('.', '_')}({arguments});"
        text += f" {self.assign(first.strip())}(got.value);"
        for name in second:
            text += f" {self.register(name.strip())} = got.in_range;"
        return f"{{ {text} }}"

    def branch(self, form: str, operands: list[str]) -> str:
        if form in ("bra", "bra.uni"):
            return f"goto {self.label(operands[0])};"
        cases = "".join(
            f" case {i}: goto {self.label(name)};"
            for i, name in enumerate(self.tables[operands[1]])
        )
        return (
            f"switch ({self.register(operands[0])}) {{{cases} default: __builtin_unreachable(); }}"
        )

    @staticmethod
    def label(name: str) -> str:
        return name.replace("$", "S")

    # -- all statements --

    def instruction(self, form: str, operands: list[str]) -> str:
        if form in ("ret", "exit"):
            return "return;"
        if form in ("bra", "bra.uni", "brx.idx"):
            return self.branch(form, operands)
        if match := MEMORY.fullmatch(form):
            return self.memory(match, operands)
        if match := ATOMIC.fullmatch(form):
            return self.atomic(match, operands)
        if re.fullmatch(r"mov\.b(32|64)", form) and any(o.startswith("{") for o in operands):
            return self.pack(form, operands)
        if re.fullmatch(r"setp\.\w+(\.(and|or|xor))?\.\w+", form):
            return self.compare(form, operands)
        if re.fullmatch(r"shfl\.sync\.(idx|up|down|bfly)\.b32", form):
            return self.shuffle(form, operands)
        if re.fullmatch(r"cvta(\.to)?\.(global|local|param|const)\.u64", form):
            return f"{self.assign(operands[0])}(b64({self.operand(operands[1])}));"
        if form == "cvta.shared.u64":
            host = f"window.host(b64({self.operand(operands[1])}), 0, Place::here())"
            return f"{self.assign(operands[0])}({host});"
        if form.startswith("call") or any("[" in text for text in operands):
            raise Refused(f"{form} {', '.join(operands)}")
        name = f"ptx::{form.replace('.', '_').replace('::', '_')}"
        if form in STATEMENTS:
            return f"{name}({', '.join(self.operand(text) for text in operands)});"
        arguments = ", ".join(self.operand(text) for text in operands[1:])
        return f"{self.assign(operands[0])}({name}({arguments}));"

    def declaration(self, statement: str) -> str:
        """.reg and .local."""
        if match := re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", statement):
            if match[1] not in REGISTER_TYPES:
                raise Refused(statement)
            kind, names = REGISTER_TYPES[match[1]], []
            for name in match[2].split(","):
                base, _, count = name.strip().rstrip(">").partition("<")
                if not count:
                    self.scopes[-1].add(base)
                names.append(f"v_{base[1:]}[{count}]" if count else self.register(base))
                self.types[names[-1].partition("[")[0]] = kind
            return f"{kind} {', '.join(names)};"
        if match := re.fullmatch(
            r"\.local\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\]", statement
        ):
            self.local.add(match[2])
            return f"alignas({match[1]}) char {match[2]}[{match[3]}];"
        if statement.startswith(".pragma"):
            return ""
        raise Refused(statement)

    def statement(self, text: str) -> str:
        if text.startswith("."):
            return self.declaration(text)
        guard = ""
        if match := re.match(r"@(!?)(%?[\w$]+)\s+", text):
            guard = f"if ({match[1]}{self.register(match[2])}) "
            text = text[match.end() :]
        form, _, rest = text.partition(" ")
        rest = rest.strip()
        # Commas inside braces and brackets separate no operands.
        operands = re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", rest)
        return guard + self.instruction(form, [o.strip() for o in operands if o.strip()])

    def lines(self) -> Iterator[str]:
        """The function's body."""
        places = Places(self.module.files)
        text = re.sub(r"\s*\n\s*", "\n", self.kernel.body)
        for match in re.finditer(r"([$\w]+):\s*\.branchtargets([^;]*);", text):
            self.tables[match[1]] = [name.strip() for name in match[2].split(",")]
        text = re.sub(r"[$\w]+:\s*\.branchtargets[^;]*;", "", text)
        token = re.compile(r"\s*(\.loc\s[^\n]*)|\s*([$\w]+):(?!:)|\s*([{}])|\s*([^;{}\s][^;]*);")
        at, line = 0, None
        while at < len(text.rstrip()):
            found = token.match(text, at)
            if found is None:
                raise Refused(text[at : at + 80].strip())
            at = found.end()
            location, label, scope, statement = found.groups()
            if location:
                line = places.line_of(location) or line
            elif label:
                yield f"{self.label(label)}:;"
            elif scope:
                if scope == "{":
                    self.scopes.append(set())
                else:
                    self.scopes.pop()
                yield scope
            else:
                if line is not None:
                    yield line
                yield self.statement(re.sub(r"\s+", " ", statement).strip())
