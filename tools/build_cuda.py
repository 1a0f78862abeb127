"""Builds prefopt/libprefopt_cuda.so: every .cu of csrc/cuda, and the C files that its
host_sources.txt names.

    python tools/build_cuda.py                       # for all architectures, into prefopt/
    python tools/build_cuda.py --architectures 90    # for one, which is quicker

setup.py does the same as PREFOPT_CUDA says. One object a file and one fat binary in each: machine
code for every architecture, and PTX of PTX_ARCHITECTURE, which the driver of a later GPU compiles.
The CUDA runtime is linked in, so that the library opens without CUDA; only pfo_cuda_* is exported.
Incremental. Needs nvcc with its headers and libcudart_static.a, and g++.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cuda_toolkit
from incremental import is_older, make

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "csrc" / "cuda"
NAME = "libprefopt_cuda.so"
PTX_ARCHITECTURE = 90

HOST_FLAGS = ("-fPIC", "-fvisibility=hidden")
LINK = (
    *("-shared", "-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL", "-s"),
    f"-Wl,--version-script={SOURCES / 'exports.map'}",
)
SYSTEM_LIBRARIES = ("-lcudart_static", "-ldl", "-lrt", "-lpthread")


def architectures() -> tuple[int, ...]:
    """PREFOPT_CUDA_ARCHITECTURES ("90" or "80 90"), or all."""
    named = os.environ.get("PREFOPT_CUDA_ARCHITECTURES", "").replace(",", " ").split()
    return tuple(int(each) for each in named) or cuda_toolkit.ARCHITECTURES


def _targets(wanted: Sequence[int]) -> list[str]:
    codes = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in wanted]
    ptx = PTX_ARCHITECTURE if PTX_ARCHITECTURE in wanted else max(wanted)
    return [*codes, f"-gencode=arch=compute_{ptx},code=compute_{ptx}"]


def _compile_cuda(source: Path, target: Path, wanted: Sequence[int]) -> Path:
    listed = "_".join(map(str, wanted))  # nvcc takes a comma or a quote apart
    command = [
        *(str(cuda_toolkit.nvcc()), "-O3", "-std=c++17", "--Werror", "all-warnings"),
        *_targets(wanted),
        "--compress-mode=size",
        f"-Xcompiler={','.join(HOST_FLAGS)}",
        f"-DPFO_CUDA_ARCHITECTURES={listed}",
        *("-MD", "-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target)),
    ]
    make(ROOT, target, command)
    return target


def _compile_c(source: Path, target: Path) -> Path:
    flags = ("-std=c11", "-O2", "-ffp-contract=off", *HOST_FLAGS, "-MMD")
    make(ROOT, target, ["gcc", *flags, "-c", str(source), "-o", str(target)])
    return target


def _library_folder() -> Path:
    """Where libcudart_static.a is."""
    root = cuda_toolkit.include().parent
    for folder in (root / "lib64", root / "lib"):
        if (folder / "libcudart_static.a").exists():
            return folder
    raise cuda_toolkit.ToolkitMissing(f"no libcudart_static.a in {root}/lib64 or {root}/lib")


def build(target: Path, work: Path, wanted: Sequence[int] = (), jobs: int = 2) -> Path:
    """Make the library `target` as far as it is out of date, with its objects in `work`."""
    wanted = tuple(wanted) or architectures()
    folder = _library_folder()
    work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        pending = [
            pool.submit(_compile_cuda, source, work / f"{source.stem}.o", wanted)
            for source in sorted(SOURCES.glob("*.cu"))
        ]
        pending += [
            pool.submit(_compile_c, ROOT / name, work / f"{Path(name).stem}.c.o")
            for name in cuda_toolkit.host_sources(SOURCES)
        ]
        objects = [each.result() for each in pending]
    if is_older(target, [*objects, SOURCES / "exports.map"]):
        command = ["g++", *LINK, *map(str, objects), f"-L{folder}", *SYSTEM_LIBRARIES]
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, "-o", str(target)], check=True)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description="Build prefopt's CUDA library.")
    parser.add_argument("--architectures", nargs="+", type=int, default=())
    parser.add_argument("--output", type=Path, default=ROOT / "prefopt" / NAME)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    work = ROOT / "build" / "cuda"
    try:
        target = build(options.output, work, options.architectures, options.jobs)
    except cuda_toolkit.ToolkitMissing as error:
        print(f"build_cuda: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
