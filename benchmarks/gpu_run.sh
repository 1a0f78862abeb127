#!/bin/bash
# Tests and benchmarks on a machine with a GPU, in under five minutes: logs and JSON go to $OUT.
#
#     OUT=/tmp/gpu bash benchmarks/gpu_run.sh [SECTION...]      # default: all but linear, in this order
#
# Sections: build, tests, bench, linear, profile, memcheck.  Each has a time limit and its own log; none stops another.
# PYTHON names the interpreter (python3); what is built already (prefopt/_core*.so, libprefopt_cuda.so) is used as it is.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-build/gpu}
TOTAL=${TOTAL:-290} # seconds
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1

# section NAME SECONDS COMMAND...: runs it with a limit, its output to a log, a line to the summary
section() {
    local name=$1 limit=$2 begin=$SECONDS left=$((TOTAL - SECONDS))
    shift 2
    [ "$limit" -le "$left" ] || limit=$left
    [ "$limit" -ge 15 ] || { echo "$name: no time left" | tee -a "$OUT/summary.txt"; return; }
    timeout -k 5 "$limit" "$@" >"$OUT/$name.log" 2>&1
    local code=$?
    printf '%-10s exit %3d in %3d s\n' "$name" "$code" $((SECONDS - begin)) | tee -a "$OUT/summary.txt"
    tail -n "${TAIL:-6}" "$OUT/$name.log"
}

build() {
    nvidia-smi
    command -v nvcc && nvcc --version
    if ! "$PYTHON" -c 'import prefopt'; then
        PREFOPT_CUDA=0 "$PYTHON" setup.py -q build_ext --inplace || return
    fi
    if ! [ -e prefopt/libprefopt_cuda.so ]; then
        "$PYTHON" tools/build_cuda.py --architectures 90 --jobs 8 || return
    fi
    "$PYTHON" -m prefopt doctor
    "$PYTHON" -c 'import prefopt; state = prefopt.cuda_available(); print(state); raise SystemExit(not state)'
}

# What the forward and the backward reach of the memory's speed, by the hardware's own counters.
profile() {
    ncu --clock-control none --kernel-name regex:'fold_rows|grad_rows' --launch-skip 3 --launch-count 3 \
        --section SpeedOfLight --section MemoryWorkloadAnalysis --section LaunchStats --section Occupancy \
        --section WarpStateStats "$PYTHON" benchmarks/token_logps_cuda.py --profile
}

memcheck() {
    compute-sanitizer --tool memcheck --error-exitcode 9 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu tests/gpu \
        -k 'test_labels_of_any or test_gradient_in_place or (test_losses and dpo) or (test_procedures and 4)'
}

export -f build profile memcheck
export PYTHON
for name in ${*:-build tests bench profile memcheck}; do
    case $name in
    build) TAIL=30 section build 150 bash -c build ;;
    tests) TAIL=30 section tests 140 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu tests/gpu --maxfail=40 --tb=short ;;
    bench) TAIL=90 section bench 120 "$PYTHON" benchmarks/token_logps_cuda.py --json "$OUT/bench.json" ;;
    linear) TAIL=150 section linear 150 "$PYTHON" benchmarks/linear_logps_cuda.py --seconds 110 --json "$OUT/linear.json" ;;
    profile) section profile 50 bash -c profile ;;
    memcheck) section memcheck 60 bash -c memcheck ;;
    *) echo "unknown section $name" ;;
    esac
done
cat "$OUT/summary.txt"
