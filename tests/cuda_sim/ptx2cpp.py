"""Translate nvcc's PTX to C++ that the simulated GPU runs.

    python tests/cuda_sim/ptx2cpp.py FILE.ptx OUT.cpp [MORE.cpp ...]

Each kernel becomes a function of untyped registers; each instruction a call of the function of its
name (`fma.rn.f32` is ptx::fma_rn_f32, include/ptx), so that an instruction nobody wrote down does not
compile. What has a syntax of its own is taken apart here, by its exact form: loads and stores,
vector moves, comparisons with a second condition, shuffles, atomics, branches. Anything else is
refused: Refused names the form and its line. `.loc` directives become #line, with the innermost place
outside NVIDIA's headers, so that every report names a line of the .cu. Several outputs get about the
same amount of kernels' text each, to be compiled beside each other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ptx_body import Body
from ptx_module import Kernel, Module, Refused, parse


def _kernel(module: Module, kernel: Kernel) -> Iterator[str]:
    body = Body(module, kernel)
    name = f"kernel_{kernel.name}"
    yield f"static void {name}([[maybe_unused]] const u64 *parameters)"
    yield "{"
    entries = []
    for variable in body.shared:
        key = variable.name
        if variable.size is None:
            memory, size = "cuda_sim::dynamic_shared_memory()", "cuda_sim::dynamic_shared_bytes()"
        else:
            size = str(variable.size)
            arguments = f'&key_{key}, "{key}", {size}, {max(16, variable.alignment)}'
            memory = f"cuda_sim::shared_memory({arguments})"
        entries.append(f'{{"{key}", static_cast<char *>({memory}), {size}}}')
    listed = ", ".join(entries) or "{}"
    yield f"[[maybe_unused]] const ptx::Window<{len(entries)}> window{{{{{listed}}}}};"
    yield from body.lines()
    yield "}"
    sizes = ", ".join(map(str, kernel.parameters)) or "0"
    yield f"static const size_t bytes_{kernel.name}[] = {{{sizes}}};"
    yield (
        f'static const ptx::Registration register_{kernel.name}({{"{kernel.name}", {name}, '
        f"{len(kernel.parameters)}, bytes_{kernel.name}, {kernel.max_threads}}});"
    )


def _part(module: Module, kernels: list[Kernel]) -> str:
    """C++ for some of a module's kernels; each part has the module's variables to itself."""
    lines = ['#include "ptx/kernel.h"', "using namespace ptx;"]
    for variable in module.variables.values():
        if variable.words is None:
            lines.append(f"[[maybe_unused]] static char key_{variable.name};")
            continue
        kind, element, values = variable.words
        count = (variable.size or 0) // element
        lines.append(
            f"alignas({variable.alignment}) [[maybe_unused]] "
            f"static {kind} {variable.name}[{count}] = {{{', '.join(values)}}};"
        )
    for kernel in kernels:
        lines += _kernel(module, kernel)
    return "\n".join(lines) + "\n"


def translate(text: str, parts: int = 1) -> list[str]:
    """C++ for a PTX text, or Refused."""
    module = parse(text)
    shares: list[list[Kernel]] = [[] for _ in range(parts)]
    for kernel in sorted(module.kernels, key=lambda kernel: -len(kernel.body)):
        min(shares, key=lambda share: sum(len(each.body) for each in share)).append(kernel)
    return [_part(module, share) for share in shares]


def main() -> int:
    source, *targets = map(Path, sys.argv[1:])
    try:
        texts = translate(source.read_text(encoding="utf-8"), len(targets))
    except Refused as error:
        print(f"ptx2cpp: {source}: refused: {error}", file=sys.stderr)
        return 1
    for target, text in zip(targets, texts, strict=True):
        target.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
