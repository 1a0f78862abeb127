"""Where CUDA's compiler and headers are, and the flags that every compilation of csrc/cuda shares.

    python tools/cuda_toolkit.py

says where they are, and fails if they are missing.
"""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

# What ptxas and the PTX runs must see alike. Contraction of a * b + c into fma stays on, as is
# nvcc's default.
NVCC_FLAGS = ("-O3", "-std=c++17", "-lineinfo", "-Icsrc")
ARCHITECTURES = (75, 80, 90, 100, 120)


class ToolkitMissing(RuntimeError):
    """No nvcc, or none with its headers."""


@functools.cache
def nvcc() -> Path:
    """The compiler: on PATH, or the newest under /usr/local."""
    found = shutil.which("nvcc")
    places = [Path(found)] if found else []
    places += sorted(Path("/usr/local").glob("cuda*/bin/nvcc"), reverse=True)
    for place in places:
        if place.is_file():
            return place
    raise ToolkitMissing("nvcc is neither on PATH nor under /usr/local/cuda*/bin")


@functools.cache
def include() -> Path:
    """The folder of cuda_runtime.h."""
    # /usr/local/bin/nvcc may be a script that starts the real one, so the toolkits are looked at too.
    roots = [
        nvcc().resolve().parent.parent,
        *sorted(Path("/usr/local").glob("cuda*"), reverse=True),
    ]
    for root in roots:
        if (root / "include" / "cuda_runtime.h").is_file():
            return root / "include"
    raise ToolkitMissing(f"no include/cuda_runtime.h beside {nvcc()} or under /usr/local/cuda*")


def host_sources(folder: Path) -> list[str]:
    """The C files that folder/host_sources.txt lists, from the repository's root."""
    listed = folder / "host_sources.txt"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


def is_present() -> bool:
    try:
        nvcc(), include()
    except ToolkitMissing:
        return False
    return True


if __name__ == "__main__":
    try:
        print(f"{nvcc()}, headers in {include()}")
    except ToolkitMissing as error:
        sys.exit(f"cuda_toolkit: {error}")
