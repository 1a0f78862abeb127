"""Build the CUDA library for the simulated GPU, and run programs against it: no GPU is needed.

    python tools/cuda_sim.py list
    python tools/cuda_sim.py build [--sources PATH]... [--name NAME] VARIANT...
    python tools/cuda_sim.py run [--sources PATH]... [--name NAME] VARIANT PROGRAM [ARGUMENT...]

A variant is how the code runs: `source` compiles the .cu text with g++ under
tests/cuda_sim/include; `ptx-80` (or 75, 90, 100, 120) runs what nvcc made of it for that
architecture, translated to C++. `-asan` adds the address and undefined-behaviour sanitizers, `-tsan`
the thread sanitizer, `-tsan-blocks` takes all order between blocks away as well.

build makes build/cuda_sim/VARIANT/lib<NAME>.so from every .cu, .cpp and .c among the sources
(csrc/cuda, under the name prefopt_cudasim, unless told otherwise). It exports what the real library
does; pointers are the host's. run starts a .cpp (compiled and linked with the library first), a .py
(PREFOPT_CUDA_LIB names the library), or any command, with the sanitizer set up.
tests/cuda_sim/include/cuda_sim.h says what a test can ask of the simulation.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cuda_toolkit
from incremental import is_older, make

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cuda_sim"
SIM = "tests/cuda_sim"
NAME = "prefopt_cudasim"
STANDARD_VARIANTS = (
    *("source", "source-asan", "source-tsan", "source-tsan-blocks", "ptx-80", "ptx-90"),
)

# GCC 12, not clang 14: its thread sanitizer keeps apart thousands of threads, that of clang (and of
# GCC from 13 on) 255, and loses races in larger blocks. Its alignment checks see struct copies too.
# tests/cuda_sim/bugs has a fault for each. No contraction: where the GPU's compiler makes an fma, PTX
# says so, and the source run has none.
CXX = "g++"
COMPILE = (CXX, "-std=c++17", "-g", "-fPIC", "-ffp-contract=off", "-fno-gnu-unique", "-MMD")
COMPILE_C = ("gcc", "-std=c11", "-g", "-fPIC", "-ffp-contract=off", "-MMD")
# Registers are no C++ variables: most are written once, some never read, and a float's is an integer.
# One that is read before it is written holds 0xfe in every byte.
PTX_FLAGS = ("-Og", "-g1", "-fno-strict-aliasing", "-ftrivial-auto-var-init=pattern", "-w")
# csrc/cuda/loss.cu becomes 5 MB of C++, on which GCC takes minutes and gigabytes in one file.
PARTS = {"csrc/cuda/loss.cu": 8}
INLINE = (
    *("-finline-functions", "-finline-limit=1000000", "-fno-semantic-interposition"),
    *("--param", "large-function-growth=10000", "--param", "inline-unit-growth=10000"),
)
WARNINGS = ("-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Sanitizer:
    name: str  # of its engine's folder
    flags: tuple[str, ...] = ()
    ptx_flags: tuple[str, ...] = ()  # translated PTX has no undefined behaviour of C++
    define: tuple[str, ...] = ()  # for the engine, which is not instrumented itself
    preload: tuple[str, ...] = ()  # for a program that was linked without it
    environment: tuple[tuple[str, str], ...] = ()


PLAIN = Sanitizer("plain")
ASAN = Sanitizer(
    "asan",
    flags=(
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        "-fno-omit-frame-pointer",
    ),
    ptx_flags=("-fsanitize=address", "-fno-omit-frame-pointer"),
    define=("-DCUDA_SIM_ASAN",),
    preload=("libasan.so", "libstdc++.so"),
    environment=(("ASAN_OPTIONS", "detect_leaks=1"), ("UBSAN_OPTIONS", "print_stacktrace=1")),
)
TSAN = Sanitizer(
    "tsan",
    # GCC instruments no read of a struct that is passed by value, so device functions are inlined.
    flags=("-fsanitize=thread", "-O2", *INLINE),
    ptx_flags=("-fsanitize=thread",),
    define=("-DCUDA_SIM_TSAN",),
    preload=("libtsan.so",),
    environment=(("TSAN_OPTIONS", "halt_on_error=1 exitcode=66"),),
)
SANITIZERS = {
    "": PLAIN,
    "asan": ASAN,
    "tsan": TSAN,
    "tsan-blocks": replace(TSAN, environment=(*TSAN.environment, ("CUDA_SIM_BLOCKS", "together"))),
}


@dataclass(frozen=True)
class Variant:
    name: str
    architecture: int | None  # of the PTX; None runs the source
    sanitizer: Sanitizer

    @property
    def folder(self) -> Path:
        """tsan-blocks differs from tsan in its environment only."""
        return BUILD / self.name.removesuffix("-blocks")


def variant(name: str) -> Variant:
    """The variant of that name, or ValueError."""
    kind, _, rest = name.partition("-")
    architecture = None
    if kind == "ptx":
        number, _, rest = rest.partition("-")
        if number not in map(str, cuda_toolkit.ARCHITECTURES):
            raise ValueError(
                f"{name}: expected ptx-{{{','.join(map(str, cuda_toolkit.ARCHITECTURES))}}}"
            )
        architecture = int(number)
    elif kind != "source":
        raise ValueError(f"{name}: expected source or ptx-<architecture>")
    if rest not in SANITIZERS:
        raise ValueError(f"{name}: expected nothing, -asan, -tsan or -tsan-blocks after the kind")
    return Variant(name, architecture, SANITIZERS[rest])


# ---- building -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build a folder at a time, whoever asks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _includes() -> list[str]:
    return [f"-I{SIM}/include", "-Icsrc", "-isystem", str(cuda_toolkit.include())]


def _object(folder: Path, source: str) -> Path:
    return folder / (source.replace("/", "__") + ".o")


def _compile(source: str, target: Path, flags: Sequence[str]) -> Path:
    language = ["-x", "c++"] if source.endswith(".cu") else []
    command = [
        *(COMPILE_C if source.endswith(".c") else COMPILE),
        *WARNINGS,
        *_includes(),
        *flags,
        "-c",
        *language,
        source,
        "-o",
        str(target),
    ]
    make(ROOT, target, command)
    return target


def _engine(sanitizer: Sanitizer) -> list[Path]:
    """The engine and the reference cuBLAS, which variants share.

    The engine is never instrumented: it tells the sanitizer what happens.
    """
    folder = BUILD / "engine" / sanitizer.name
    with _locked(folder):
        flags = ["-O2", *sanitizer.define]
        objects = [
            _compile(source, _object(folder, source), flags) for source in expand([f"{SIM}/engine"])
        ]
        source = f"{SIM}/cublas/cublas.cpp"
        compiled = _compile(source, _object(folder, source), ["-O2", *sanitizer.flags])
        cublas = folder / "libcublas.so.13"
        if is_older(cublas, [compiled]):
            command = [CXX, "-shared", str(compiled), "-o", str(cublas), *sanitizer.flags]
            subprocess.run([*command, "-Wl,-soname,libcublas.so.13"], check=True)
    return objects


def _translate(chosen: Variant, folder: Path, source: str) -> list[Path]:
    """nvcc's PTX of a .cu, translated and compiled."""
    ptx = folder / (source.replace("/", "__").removesuffix(".cu") + ".ptx")
    architecture = f"-arch=compute_{chosen.architecture}"
    command = [str(cuda_toolkit.nvcc()), *cuda_toolkit.NVCC_FLAGS, "-ptx", architecture, source]
    make(ROOT, ptx, [*command, "-MD", "-MF", str(ptx.with_suffix(".d")), "-o", str(ptx)])
    texts = [
        ptx.with_suffix(f".{part}.cpp" if part else ".ptx.cpp")
        for part in range(PARTS.get(source, 1))
    ]
    if any(is_older(text, [ptx, *(ROOT / SIM).glob("ptx*.py")]) for text in texts):
        command = [sys.executable, str(ROOT / SIM / "ptx2cpp.py"), str(ptx), *map(str, texts)]
        subprocess.run(command, check=True)
    flags = [*PTX_FLAGS, *chosen.sanitizer.ptx_flags]

    def compiled(text: Path) -> Path:
        return _compile(os.path.relpath(text, ROOT), text.with_suffix(".o"), flags)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compiled, texts))


def _kernel_objects(chosen: Variant, folder: Path, source: str) -> list[Path]:
    """The host side, with the kernels' own text; for PTX also the kernels that run in its place."""
    flags = ["-O1", *chosen.sanitizer.flags]
    objects = [_compile(source, _object(folder, source), flags)]
    if chosen.architecture is not None and source.endswith(".cu"):
        objects += _translate(chosen, folder, source)
    return objects


def expand(sources: Sequence[str]) -> list[str]:
    """Files, and the sources in folders and those that a folder's host_sources.txt lists, relative
    to the repository.
    """
    found: list[Path] = []
    for name in sources:
        path = (ROOT / name).resolve()
        if path.is_dir():
            found += sorted(
                p for p in path.iterdir() if p.suffix in (".cu", ".cpp", ".c") and p.stem != "main"
            )
            found += [ROOT / line for line in cuda_toolkit.host_sources(path)]
        else:
            found.append(path)
    return [os.path.relpath(path, ROOT) for path in found]


def build(
    name: str, sources: Sequence[str] = ("csrc/cuda",), library: str = NAME, *, jobs: int = 2
) -> Path:
    """Build a variant of a library as far as it is out of date; return its path."""
    chosen = variant(name)
    files = expand(sources)
    if not files:
        raise FileNotFoundError(f"no .cu, .cpp or .c in {' '.join(sources)}")
    folder = chosen.folder / library
    target = chosen.folder / f"lib{library}.so"
    with _locked(chosen.folder), ThreadPoolExecutor(jobs) as pool:
        folder.mkdir(exist_ok=True)
        engine = pool.submit(_engine, chosen.sanitizer)
        kernels = list(pool.map(lambda source: _kernel_objects(chosen, folder, source), files))
        objects = [*engine.result(), *(item for group in kernels for item in group)]
        listed = folder / "objects"
        text = "\n".join(map(str, objects))
        if is_older(target, objects) or not listed.exists() or listed.read_text() != text:
            options = [*chosen.sanitizer.flags, "-Wl,-z,defs", "-ldl", "-lpthread"]
            options.append(f"-Wl,-rpath,$ORIGIN/../engine/{chosen.sanitizer.name}")  # of cuBLAS
            fresh = target.with_suffix(f".{os.getpid()}")
            subprocess.run(
                [CXX, "-shared", *map(str, objects), "-o", str(fresh), *options], check=True
            )
            fresh.replace(target)  # a program that has the old one mapped goes on with it
            listed.write_text(text)
    return target


def build_program(name: str, source: str, library: Path) -> Path:
    """Compile a C++ program and link it with a library that build() made."""
    chosen = variant(name)
    stem = library.stem.removeprefix("lib")
    folder = chosen.folder / stem
    with _locked(chosen.folder):
        object_file = _compile(source, _object(folder, source), ["-O1", *chosen.sanitizer.flags])
        target = folder / Path(source).stem
        if is_older(target, [object_file, library]):
            link = [f"-L{chosen.folder}", f"-l{stem}", f"-Wl,-rpath,{chosen.folder}"]
            flags = [*chosen.sanitizer.flags, *link]
            subprocess.run([CXX, str(object_file), "-o", str(target), *flags], check=True)
    return target


# ---- running -----------------------------------------------------------------------------------------


def environment(name: str, library: Path, *, linked: bool) -> dict[str, str]:
    """What a program needs around it; linked: it was linked with the sanitizer."""
    chosen = variant(name)
    result = os.environ | dict(chosen.sanitizer.environment)
    result |= {"PREFOPT_CUDA_LIB": str(library), "CUDA_SIM_VARIANT": name}
    # A sanitizer's dlopen does not look at the library's own run path.
    paths = [
        str(BUILD / "engine" / chosen.sanitizer.name),
        *filter(None, [os.environ.get("LD_LIBRARY_PATH")]),
    ]
    result["LD_LIBRARY_PATH"] = ":".join(paths)
    if not linked and chosen.sanitizer.preload:
        found = [
            subprocess.run(
                [CXX, f"-print-file-name={file}"], capture_output=True, text=True, check=True
            ).stdout.strip()
            for file in chosen.sanitizer.preload
        ]
        result["LD_PRELOAD"] = ":".join(found)
        if "ASAN_OPTIONS" in result:
            result["ASAN_OPTIONS"] = "detect_leaks=0"  # Python keeps memory to its end
    return result


def run(
    name: str, library: Path, command: Sequence[str], **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a .cpp, a .py or a command against a library; options go to subprocess.run."""
    program, *arguments = command
    if program.endswith(".cpp"):
        started = [str(build_program(name, program, library)), *arguments]
        around = environment(name, library, linked=True)
    else:
        started = (
            [sys.executable, program, *arguments] if program.endswith(".py") else list(command)
        )
        around = environment(name, library, linked=False)
    extra = options.pop("env", {})
    return subprocess.run(started, env={**around, **extra}, text=True, check=False, **options)  # type: ignore


def main() -> int:
    parser = argparse.ArgumentParser(description="Build and run the simulated CUDA library.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the variants that CI runs")
    for command in ("build", "run"):
        added = commands.add_parser(command)
        added.add_argument("--sources", action="append", metavar="PATH", help="file or folder")
        added.add_argument("--name", default=NAME, help="of the library")
        if command == "build":
            added.add_argument("variants", nargs="+", metavar="VARIANT")
        else:
            added.add_argument("variant", metavar="VARIANT")
            added.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM [ARGUMENT...]")
    arguments = parser.parse_args()
    if arguments.command == "list":
        print("\n".join(STANDARD_VARIANTS))
        return 0
    try:
        for name in arguments.variants if arguments.command == "build" else [arguments.variant]:
            begin = time.perf_counter()
            library = build(name, arguments.sources or ["csrc/cuda"], arguments.name)
            print(
                f"{library.relative_to(ROOT)}: {time.perf_counter() - begin:.1f} s", file=sys.stderr
            )
        if arguments.command == "run":
            return run(arguments.variant, library, arguments.program, cwd=ROOT).returncode
    except (ValueError, FileNotFoundError, cuda_toolkit.ToolkitMissing) as error:
        print(f"cuda_sim: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
