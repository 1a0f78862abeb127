"""Builds prefopt._core: every .c file under csrc, one flag list, OpenMP where the compiler has it.

Environment: PREFOPT_OPENMP=0|1 (default: probe), PREFOPT_SANITIZE=address,undefined,
PREFOPT_DEBUG=1, PREFOPT_WERROR=1.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.c") if "cuda" not in path.parts
)
HEADERS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.h", "*.inc")
    for path in (ROOT / "csrc").rglob(pattern)
)
WARNINGS = [
    *("-Wall", "-Wextra", "-Wshadow", "-Wcast-qual", "-Wcast-align", "-Wpointer-arith"),
    *("-Wstrict-prototypes", "-Wswitch-enum", "-Wundef", "-Wvla", "-Wwrite-strings", "-Wformat=2"),
]


def flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def has_openmp(compiler: str) -> bool:
    """Whether a program with -fopenmp compiles and links."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text(
            "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
        )
        command = [*compiler.split(), "-fopenmp", str(source), "-o", str(Path(folder) / "probe")]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False


class BuildExt(build_ext):
    """Adds the flags that depend on the compiler."""

    def build_extensions(self) -> None:
        extension = self.extensions[0]
        if self.compiler.compiler_type == "msvc":
            extension.extra_compile_args += ["/O2", "/std:c11", "/experimental:c11atomics"]
            super().build_extensions()
            return
        compile_args = [
            "-std=c11",
            "-O1" if flag("PREFOPT_DEBUG") else "-O3",
            "-fvisibility=hidden",
        ]
        compile_args += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
        link_args: list[str] = []
        if flag("PREFOPT_WERROR"):
            # As system headers, NumPy's and Python's own warnings do not count.
            headers = [numpy.get_include(), sysconfig.get_path("include")]
            compile_args += [*WARNINGS, "-Werror", *(f"-isystem{path}" for path in headers)]
        sanitize = os.environ.get("PREFOPT_SANITIZE", "")
        if sanitize:
            compile_args += [
                f"-fsanitize={sanitize}",
                "-fno-omit-frame-pointer",
                "-fno-sanitize-recover=all",
                "-DPFO_NO_FORCED_INLINE",  # GCC needs over ten minutes for the scalar row otherwise
            ]
            link_args += [f"-fsanitize={sanitize}"]
        wanted = os.environ.get("PREFOPT_OPENMP", "auto")
        if wanted != "0":
            compiler = os.environ.get("CC") or " ".join(self.compiler.compiler_so[:1])
            if has_openmp(compiler):
                compile_args += ["-fopenmp", "-DPFO_OPENMP"]
                link_args += ["-fopenmp"]
            elif wanted == "1":
                sys.exit("PREFOPT_OPENMP=1, but the compiler cannot build an OpenMP program")
        if sys.platform.startswith("linux"):
            link_args += [
                "-ldl"
            ]  # the BLAS is opened at run time; glibc before 2.34 keeps dlopen apart
        described = " ".join(compile_args)
        compile_args += [f'-DPFO_BUILD_FLAGS="{described}"']
        compile_args += [f'-DPFO_BUILD_SANITIZE="{sanitize}"']
        extension.extra_compile_args += compile_args
        extension.extra_link_args += link_args
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "prefopt._core",
            SOURCES,
            depends=HEADERS,
            include_dirs=[numpy.get_include(), "csrc"],
            define_macros=[("NDEBUG", None)],
        )
    ],
    cmdclass={"build_ext": BuildExt},
)
