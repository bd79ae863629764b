#!/usr/bin/env bash
# All tests and measurements that need a GPU, in one call of under nine minutes.
#
#   [OUT=folder] [WHEELS=folder] [SECONDS_LEFT=530] [COMMIT=abc1234] benchmarks/gpu.sh
#
# Needs PyTorch 2.11 or newer with its Triton, Lightning, torchmetrics, torchvision and pytest, and downloads nothing:
# missing packages, and peers such as localcorr, can be put into WHEELS as wheels. Tables and log are written to OUT
# (by default benchmarks/results), row by row as they are measured. The most important parts come first; a part that
# fails or reaches its time limit does not stop the others. The last lines compare measurements and targets.
#
# DEVICE=cpu benchmarks/gpu.sh runs all parts with tiny shapes and the kernels in Triton's interpreter, to check
# without a GPU that every part works.
set -uo pipefail
cd "$(dirname "$0")/.."

device=${DEVICE:-cuda}
out=${OUT:-benchmarks/results}
end=$((SECONDS + ${SECONDS_LEFT:-530}))
mkdir -p "$out"
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
  packages=$(mktemp -d)
  trap 'rm -rf "$packages"' EXIT
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$packages" "$WHEELS"/*.whl
  export PYTHONPATH=$PYTHONPATH:$packages
fi

patience=1 volumes=() small_volumes=() tunes=() wide=() losses=() clips=() long_clips=() backbone=r2d50 long=r2plus1d101 turns=()
if [ "$device" = cpu ]; then
  patience=20 end=$((end + 10000))
  volumes=(--shapes 1x4x2x9x8) small_volumes=("${volumes[@]}") losses=(--shapes 60x40x8)
  tunes=(--shapes 1x20x2x6x5 --providers chosen "ROWS=2 *") wide=("${tunes[@]}")
  clips=(--shapes 2x3x4x32x32) long_clips=("${clips[@]}") backbone=r2d_tiny long=r2d_tiny turns=(--repeats 2)
  export TRITON_INTERPRET=1 OMP_NUM_THREADS=1
else
  small_volumes=(--shapes 8x64x8x28x28 8x128x4x14x14) wide=(--shapes 8x32x16x56x56)
  long_clips=(--shapes 4x3x32x224x224)
fi

failed=()
part() { # limit in seconds, command
  local limit=$(($1 * patience)) start=$SECONDS left=$((end - SECONDS))
  shift
  echo "== $*"
  if [ "$left" -lt 10 ]; then
    echo "== left out: no time is left"
    failed+=("no time: $*")
    return
  fi
  timeout -k 5 $((limit < left ? limit : left)) "$@" || {
    echo "== ended with $?"
    failed+=("$*")
  }
  echo "== $((SECONDS - start)) s, $((end - SECONDS)) s left"
}
bench() { # limit, script, its options
  local limit=$1 name=$2
  shift 2
  part "$limit" python3 "benchmarks/$name.py" --device "$device" --output "$out/$name.csv" "$@" "${turns[@]}"
}

run() {
  python3 - <<'PYTHON'
import torch, triton
print(torch.__version__, triton.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
PYTHON
  # On an unknown machine, new warnings must not fail the tests.
  # shellcheck disable=SC2046
  part 120 python3 -m pytest -v -m gpu -p no:cacheprovider -o filterwarnings=default --continue-on-collection-errors \
    $(python3 -c 'import xdist' 2>/dev/null && echo "-n 14 --dist worksteal") $(grep -rlE 'mark\.gpu' tests --include='test_*.py')
  bench 90 cost_volume --dtype bfloat16 --repeats 25 "${volumes[@]}" --providers "ours*" eager localcorr
  bench 110 train_step --dtype bfloat16 --repeats 10 --backbone "$backbone" "${clips[@]}" --providers \
    ours "ours without motion blocks" resnet50 "ours motion blocks only" "ours + searched convolutions" \
    "ours + contiguous weights" "ours + padded motion" r2plus1d_18 r3d_18 "ours flow" "ours contrast ?"
  bench 140 tune --dtype bfloat16 --repeats 9 "${tunes[@]}"
  bench 40 contrastive_loss --repeats 15 "${losses[@]}"
  bench 60 train_step --dtype bfloat16 --repeats 6 --backbone "$long" "${long_clips[@]}" --providers \
    ours "ours without motion blocks" "ours motion blocks only"
  bench 60 inference --dtype bfloat16 --repeats 15 "${clips[@]}" --providers \
    ours "ours without motion blocks" resnet50 "ours + contiguous weights" r2plus1d_18 r3d_18 \
    "ours r2plus1d101" "ours r2plus1d101 without motion blocks"
  bench 30 cost_volume --dtype float32 --repeats 25 "${volumes[@]}" --providers "ours*" localcorr
  bench 150 train_step --dtype bfloat16 --repeats 10 --backbone "$backbone" "${clips[@]}" --providers \
    "ours + compiled" "ours without motion blocks + compiled" "resnet50 + compiled"
  bench 60 cost_volume --dtype bfloat16 --repeats 25 "${small_volumes[@]}" --providers ours "compiled*"
  if [ "$device" = cuda ] && command -v ncu >/dev/null; then
    part 50 ncu --clock-control none --kernel-name regex:cost_volume --launch-count 2 --section SpeedOfLight \
      --section MemoryWorkloadAnalysis --section WarpStateStats --section Occupancy --section InstructionStats \
      python3 benchmarks/cost_volume.py --device cuda --dtype bfloat16 --repeats 2 --providers ours \
      --shapes 8x32x16x56x56 --output /dev/null
  fi
  bench 60 tune --dtype bfloat16 --repeats 9 --contiguous "${wide[@]}"
  echo "== aims"
  python3 benchmarks/targets.py --results "$out"
  echo "== ${#failed[@]} parts failed or were cut short"
  [ "${#failed[@]}" -eq 0 ] || printf '%s\n' "${failed[@]}"
  [ "${#failed[@]}" -eq 0 ]
}
run 2>&1 | tee "$out/gpu.log"
