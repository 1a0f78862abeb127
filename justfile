# `just` lists these; `pip install -e '.[dev,test]'` brings just, ruff, mypy, clang-format and pytest.

python := env("PYTHON", "python3")

default:
    @just --list

# the extension in place
build:
    {{python}} -m pip install -e . --no-deps

# every test that this environment can run; `just test tests/test_vmath.py -x` for a part
test *arguments:
    {{python}} -m pytest {{arguments}}

# the C test program on every ISA row: native, AVX-512 through SIMDe, NEON under qemu
test-isa:
    {{python}} tools/build_c.py --run gcc simde avx512 neon

# C programs under the address, undefined-behaviour and thread sanitizers, then the NumPy suite
asan:
    {{python}} tools/build_c.py --run asan tsan
    bash .ci/run asan_python

# mutants of every formula and kernel; tests must catch each
mutate *arguments:
    {{python}} tools/mutate.py {{arguments}}

# CUDA without a GPU: static gates, the simulated GPU and its injected faults, mutants
cuda:
    {{python}} tools/cuda_static.py
    {{python}} -m pytest -m cuda_sim
    {{python}} tools/mutate_cuda.py samples --count 8

# token log-probs and losses against their peers (see benchmarks/ for options)
bench *arguments:
    {{python}} benchmarks/token_logps.py {{arguments}}

lint:
    {{python}} -m ruff check .
    {{python}} -m ruff format --check .
    {{python}} -m mypy
    git ls-files '*.c' '*.h' '*.inc' '*.cu' '*.cuh' '*.cpp' | xargs clang-format --dry-run -Werror
    {{python}} tools/lint_c.py

format:
    {{python}} -m ruff format .
    git ls-files '*.c' '*.h' '*.inc' '*.cu' '*.cuh' '*.cpp' | xargs clang-format -i

# files that are made from lists or from mpmath
docs:
    {{python}} tools/gen_loss_functions.py
    {{python}} tools/gen_loss_docs.py
    {{python}} tools/gen_check_values.py
    {{python}} tools/gen_golden.py

# everything CI does
ci:
    bash .ci/run
