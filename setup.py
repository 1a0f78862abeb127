"""Builds prefopt._core: every .c file under csrc, one flag list, OpenMP where the compiler has it;
and beside it the CUDA library, where nvcc is (tools/build_cuda.py).

Environment: PREFOPT_OPENMP=0|1 (default: probe), PREFOPT_CUDA=0|1 (default: if there is an nvcc),
PREFOPT_CUDA_ARCHITECTURES, PREFOPT_SANITIZE=address,undefined, PREFOPT_DEBUG=1, PREFOPT_WERROR=1.
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
sys.path.insert(0, str(ROOT / "tools"))

import build_cuda  # noqa: E402
import cuda_toolkit  # noqa: E402

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


def wants_cuda() -> bool:
    """What PREFOPT_CUDA says, or whether there is an nvcc."""
    wanted = os.environ.get("PREFOPT_CUDA", "auto")
    if wanted == "1" and not cuda_toolkit.is_present():
        sys.exit("PREFOPT_CUDA=1, but there is no nvcc with its headers")
    return wanted != "0" and cuda_toolkit.is_present()


class BuildExt(build_ext):
    """Adds the flags that depend on the compiler, and the CUDA library."""

    def run(self) -> None:
        super().run()
        library = self.cuda_library()
        if wants_cuda():
            build_cuda.build(library, ROOT / "build" / "cuda")
        elif library.exists() and self.inplace:
            library.unlink()  # of an earlier build: what is here is what was asked for

    def cuda_library(self) -> Path:
        return Path(self.get_ext_fullpath("prefopt._core")).with_name(build_cuda.NAME)

    def get_outputs(self) -> list[str]:
        outputs: list[str] = super().get_outputs()
        return [*outputs, str(self.cuda_library())] if wants_cuda() else outputs

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
