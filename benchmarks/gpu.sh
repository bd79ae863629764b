#!/usr/bin/env bash
# The GPU's tests and all its measurements, in one call of under nine minutes.
#
#   [OUT=folder] [PEERS=folder] benchmarks/gpu.sh
#
# Needs PyTorch, Triton, Lightning, torchmetrics, torchvision and pytest, and installs nothing. Tables and log go
# to OUT (benchmarks/results where it is not set); wheels of peers, such as localcorr's, are taken from PEERS.
# Every part has a limit, and what was measured before it struck is kept. What matters most comes first.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-benchmarks/results}
mkdir -p "$out"
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ -n "${PEERS:-}" ]; then
  unpacked=$(mktemp -d)
  trap 'rm -rf "$unpacked"' EXIT
  for wheel in "$PEERS"/*.whl; do python3 -m zipfile -e "$wheel" "$unpacked"; done
  export PYTHONPATH=$PYTHONPATH:$unpacked
fi

failed=0
part() { # limit in seconds, command
  local limit=$1 start=$SECONDS
  shift
  echo "== $*"
  timeout "$limit" "$@" || { echo "== ended with $?"; failed=1; }
  echo "== $((SECONDS - start)) s"
}
bench() { # limit, script, its options
  local limit=$1 name=$2
  shift 2
  part "$limit" python3 "benchmarks/$name.py" --device cuda --output "$out/$name.csv" "$@"
}

run() {
  python3 -c 'import torch, triton; print(torch.cuda.get_device_name(), torch.__version__, triton.__version__)'
  part 130 python3 -m pytest -q -m gpu -p no:cacheprovider tests/ops tests/tasks/test_step.py
  bench 80 cost_volume --dtype bfloat16 --repeats 25
  bench 30 cost_volume --dtype float32 --repeats 25 --providers "ours*" eager localcorr
  bench 70 train_step --dtype bfloat16 --repeats 10 --providers \
    ours "ours without motion blocks" "ours motion blocks only" "ours flow" "ours contrast ?" \
    "ours*channels-last weights" resnet50 r3d_18 r2plus1d_18
  bench 40 contrastive_loss --repeats 15
  bench 50 inference --dtype bfloat16 --repeats 15 --providers \
    ours "ours without motion blocks" "ours*weights" resnet50 r3d_18 r2plus1d_18
  bench 120 train_step --dtype bfloat16 --repeats 10 --providers \
    "ours + compiled" "resnet50 + compiled" "ours without motion blocks + compiled"
  return $failed
}
run 2>&1 | tee "$out/gpu.log"
