"""Build the C core without Python, and its test programs, with any compiler.

    python tools/build_c.py --list
    python tools/build_c.py gcc clang            # build into build/c/<name>/
    python tools/build_c.py --run simde neon     # build, then run the test programs

One table (CONFIGURATIONS) names every compiler, target and sanitizer that is used; one function
builds them all. Incremental by the compiler's own dependency files. A program is one folder entry
of PROGRAMS; it links the whole of csrc except csrc/python. Nothing here is needed to install the
package.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# lz4's list (lib/Makefile), less -Wdeclaration-after-statement (C11 here) and -Wstrict-aliasing=1:
# level 1 warns of every cast of an address, -Wall's level 3 of those that break the rule.
WARNINGS = shlex.split(
    "-Wall -Wextra -Wcast-qual -Wcast-align -Wshadow -Wswitch-enum -Wundef -Wstrict-prototypes "
    "-Wmissing-prototypes -Wpointer-arith -Wvla -Wformat=2 -Wwrite-strings -Wredundant-decls "
    "-Werror"
)
STANDARD = ["-std=c11", "-ffp-contract=off", "-fvisibility=hidden"]
OPENMP = ["-fopenmp", "-DPFO_OPENMP=1"]
AVX512_FLAGS = shlex.split("-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c")
AVX2_FLAGS = shlex.split("-mavx2 -mfma -mf16c")

PROGRAMS = {"test_core": "tests/c/*.c", "test_simde": "tests/simde/*.c"}


@dataclass(frozen=True)
class Configuration:
    """How to compile, link and run for one target."""

    compiler: tuple[str, ...]
    about: str
    flags: tuple[str, ...] = ("-O2",)
    link: tuple[str, ...] = ()
    openmp: bool = True
    warnings: bool = True
    # extra flags for sources whose path ends so: the region pragmas in csrc choose ISA for the
    # others
    unit_flags: tuple[tuple[str, tuple[str, ...]], ...] = ()
    extra_sources: tuple[str, ...] = ()
    programs: tuple[str, ...] = ("test_core",)
    runner: tuple[str, ...] | None = ()  # () runs directly, None cannot run here
    environment: tuple[tuple[str, str], ...] = ()


def _zig(target: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ziglang", "cc", "-target", target)


# Builds whose speed nobody looks at: forced inlining costs GCC 20 s in the scalar row, minutes with
# sanitizers.
QUICK = "-DPFO_NO_FORCED_INLINE=1"
SANITIZE = ("-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", QUICK)
LEAKS = (
    ("ASAN_OPTIONS", "detect_leaks=1"),
    ("LSAN_OPTIONS", "suppressions=tests/c/leaks.txt:print_suppressions=0"),
    ("UBSAN_OPTIONS", "print_stacktrace=1"),
)
SIMDE_UNITS = (
    ("csrc/isa/isa_avx512.c", tuple(AVX2_FLAGS)),
    ("tests/c/vocabulary_avx512.c", tuple(AVX2_FLAGS)),
    ("tests/simde/ops.c", tuple(AVX2_FLAGS)),
)

CONFIGURATIONS = {
    "gcc": Configuration(("gcc",), "GCC, OpenMP, warnings as errors"),
    "clang": Configuration(("clang",), "clang, OpenMP, warnings as errors"),
    "serial": Configuration(("gcc",), "GCC without OpenMP", flags=("-O2", QUICK), openmp=False),
    "asan": Configuration(
        ("clang",),
        "clang, address and undefined-behaviour sanitizers, leak check",
        flags=(*SANITIZE, "-fsanitize=address,undefined"),
        link=("-fsanitize=address,undefined",),
        environment=LEAKS,
    ),
    "tsan": Configuration(
        ("gcc",),
        "GCC, thread sanitizer; OpenMP through a pthread shim that the sanitizer can see",
        flags=("-O1", "-g", "-fsanitize=thread", QUICK),
        link=("-fsanitize=thread", "-pthread"),
        extra_sources=("tests/c/shim/gomp_pthread.c",),
        environment=(("TSAN_OPTIONS", "halt_on_error=1 exitcode=66"), ("PREFOPT_TEST_SMALL", "1")),
    ),
    "simde": Configuration(
        ("gcc",),
        "AVX-512 row through SIMDe on AVX2, every program",
        flags=("-O2", "-DPFO_SIMDE=1", "-Itests/simde", "-Wno-psabi", QUICK),
        unit_flags=SIMDE_UNITS,
        programs=("test_core", "test_simde"),
        environment=(("PREFOPT_TEST_ISA", "avx512"),),
    ),
    "avx512": Configuration(
        ("gcc",),
        "real AVX-512 flags: the unit and the emulation's own tests (run where the CPU has them)",
        flags=("-O2", "-Itests/simde", QUICK),
        unit_flags=(
            ("csrc/isa/isa_avx512.c", tuple(AVX512_FLAGS)),
            ("tests/simde/ops.c", tuple(AVX512_FLAGS)),
        ),
        programs=("test_core", "test_simde"),
    ),
    "neon": Configuration(
        ("aarch64-linux-gnu-gcc",),
        "AArch64 cross build, run under qemu-user",
        flags=("-O2", QUICK),
        runner=("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"),
        environment=(("PREFOPT_TEST_SMALL", "1"),),
    ),
    "windows": Configuration(
        _zig("x86_64-windows-gnu"),
        "compiled and linked, not run",
        flags=("-O2", QUICK),
        openmp=False,
        runner=None,
    ),
    "macos-arm": Configuration(
        _zig("aarch64-macos"),
        "compiled and linked, not run",
        flags=("-O2", QUICK),
        openmp=False,
        runner=None,
    ),
    "macos-x86": Configuration(
        _zig("x86_64-macos"),
        "compiled and linked, not run",
        flags=("-O2", QUICK),
        openmp=False,
        runner=None,
    ),
}


def _core_sources(root: Path) -> list[Path]:
    return [path for path in sorted((root / "csrc").rglob("*.c")) if path.parent.name != "python"]


def _is_fresh(root: Path, target: Path, command_file: Path, command: str) -> bool:
    """True if target was made by command and is newer than everything its dependency file names."""
    if not target.exists() or not command_file.exists() or command_file.read_text() != command:
        return False
    made = target.stat().st_mtime_ns
    listed = target.with_suffix(".d")
    if not listed.exists():
        return False
    names = shlex.split(listed.read_text().replace("\\\n", " "))[1:]
    try:
        return all(
            os.stat(root / name).st_mtime_ns < made for name in names if not name.endswith(":")
        )
    except FileNotFoundError:
        return False


def _compile(configuration: Configuration, root: Path, source: Path, folder: Path) -> Path:
    """Compile one source into folder unless it is fresh; return the object."""
    relative = source.relative_to(root).as_posix()
    target = folder / (relative.replace("/", "__")[:-2] + ".o")
    command = [*configuration.compiler, *STANDARD, *configuration.flags]
    command += WARNINGS if configuration.warnings else ["-w"]
    if configuration.openmp:
        command += OPENMP
    for ending, flags in configuration.unit_flags:
        if relative.endswith(ending):
            command += flags
    command += [
        "-Icsrc",
        "-MMD",
        "-MF",
        str(target.with_suffix(".d")),
        "-c",
        relative,
        "-o",
        str(target),
    ]
    text = shlex.join(command)
    command_file = target.with_suffix(".cmd")
    if not _is_fresh(root, target, command_file, text):
        subprocess.run(command, cwd=root, check=True)
        command_file.write_text(text)
    return target


def _compile_all(
    configuration: Configuration, root: Path, sources: list[Path], folder: Path, jobs: int
) -> dict[Path, Path]:
    """Compile sources into folder, jobs at a time; return the object of each."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        objects = pool.map(lambda s: _compile(configuration, root, s, folder), sources)
        return dict(zip(sources, objects, strict=True))


def _link(command: list[str], objects: list[Path], target: Path, options: Sequence[str]) -> None:
    """Link objects into target unless it is newer than all of them."""
    newest = max(item.stat().st_mtime_ns for item in objects)
    if target.exists() and target.stat().st_mtime_ns >= newest:
        return
    subprocess.run([*command, *map(str, objects), "-o", str(target), *options], check=True)


def build(name: str, *, jobs: int = 2) -> list[Path]:
    """Build a configuration into build/c/<name>; return its programs or raise."""
    configuration = CONFIGURATIONS[name]
    if shutil.which(configuration.compiler[0]) is None:
        raise FileNotFoundError(f"{name}: compiler {configuration.compiler[0]} is not installed")
    folder = ROOT / "build" / "c" / name
    core = _core_sources(ROOT) + [ROOT / extra for extra in configuration.extra_sources]
    per_program = {p: sorted(ROOT.glob(PROGRAMS[p])) for p in configuration.programs}
    wanted = core + [source for sources in per_program.values() for source in sources]
    objects = _compile_all(configuration, ROOT, wanted, folder, jobs)
    options = [*configuration.link, *([] if "windows" in name else ["-lm", "-pthread", "-ldl"])]
    # A shim among the extra sources stands in for libgomp, so -fopenmp is left out of that link.
    if configuration.openmp and not configuration.extra_sources:
        options.append("-fopenmp")
    programs = []
    for program, sources in per_program.items():
        target = folder / program
        _link([*configuration.compiler], [objects[s] for s in sources + core], target, options)
        programs.append(target)
    return programs


def build_extension(root: Path, folder: Path, *, jobs: int = 2) -> Path:
    """Build prefopt/_core of the tree at root in place, quickly and without warnings (for mutants).

    setup.py is how the package is built; setuptools compiles everything anew on any change, which a
    run over mutants cannot afford.
    """
    import sysconfig

    import numpy

    configuration = Configuration(
        ("gcc",),
        "the Python extension",
        flags=(
            *("-O1", "-fPIC", "-fno-math-errno", "-fno-trapping-math", QUICK),
            *('-DPFO_BUILD_FLAGS="mutant"', '-DPFO_BUILD_SANITIZE=""'),
            *("-isystem", sysconfig.get_path("include"), "-isystem", numpy.get_include()),
        ),
        warnings=False,
    )
    sources = sorted((root / "csrc").rglob("*.c"))
    objects = _compile_all(configuration, root, sources, folder, jobs)
    target = root / "prefopt" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    _link(["gcc", "-shared"], list(objects.values()), target, ["-fopenmp", "-lm", "-ldl"])
    return target


def run_programs(name: str, programs: Sequence[Path]) -> int:
    """Run the programs of a configuration; return the first exit code that is not 0."""
    configuration = CONFIGURATIONS[name]
    if configuration.runner is None:
        print(f"{name}: {configuration.about}")
        return 0
    environment = os.environ | dict(configuration.environment)
    for program in programs:
        code = subprocess.run(
            [*configuration.runner, str(program)], cwd=ROOT, env=environment
        ).returncode
        if code != 0:
            print(f"{name}: {program.name} exited with {code}")
            return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the C core and its test programs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="configurations; see --list")
    parser.add_argument("--list", action="store_true", help="list the configurations")
    parser.add_argument("--run", action="store_true", help="run the programs after building")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.list:
        for name, configuration in CONFIGURATIONS.items():
            print(f"{name:<12}{configuration.about}")
        return 0
    for name in arguments.names:
        if name not in CONFIGURATIONS:
            parser.error(
                f"unknown configuration {name!r}: expected one of {', '.join(CONFIGURATIONS)}"
            )
    for name in arguments.names:
        begin = time.perf_counter()
        try:
            programs = build(name, jobs=arguments.jobs)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        print(f"{name}: built in {time.perf_counter() - begin:.1f} s", flush=True)
        if arguments.run and run_programs(name, programs) != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
