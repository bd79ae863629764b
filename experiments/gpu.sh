#!/usr/bin/env bash
# Everything that needs a GPU, in two calls of under ten minutes each.
#
#   DATA=folder [OUT=folder] [WHEELS=folder] [SECONDS_EACH=450] experiments/gpu.sh first|second
#
# first:  Table 2 with R2D-50 on utdmhad_depth27, three seeds; Figure 4; flow on synthetic videos.
# second: Table 2 with R2D-50 on ucf101_6 and with R(2+1)D-101 on utdmhad_depth27; Table 7.
# Fetches nothing: what is missing of the packages that the lines below import can lie as wheels in WHEELS. Runs go side
# by side, as many as there are seeds and methods; what is in the tables when the time is over stays. To OUT go the
# tables, the figures and one log.
# A rehearsal: PROTOCOL=cpu SMALL=r2d_tiny LARGE=r2d_tiny EXTRA='--trainer.max_epochs=1 --trainer.limit_train_batches=1 --trainer.check_val_every_n_epoch=1'.
set -uo pipefail
cd "$(dirname "$0")/.."

part=${1:?first or second}
data=${DATA:?folder of the datasets}
out=${OUT:-experiments/results_gpu}
seconds=${SECONDS_EACH:-450}
protocol=${PROTOCOL:-gpu}
read -r -a extra <<<"${EXTRA:-}"
large=${LARGE:-r2plus1d101}
small=${SMALL:-r2d50}
mkdir -p "$out"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
if [ -n "${WHEELS:-}" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$logs/packages" "$WHEELS"/*.whl || exit
  export PYTHONPATH=$PYTHONPATH:$logs/packages
fi
# A package that is missing is said before any job is started. Lightning's command line wants those of jsonargparse[signatures].
python3 - <<'PYTHON' || exit
import av, cv2, docstring_parser, jsonargparse, matplotlib, pytorch_grad_cam, pytorch_lightning.cli, torchmetrics
import torchvision, typeshed_client
import hcml_lightning.cli
PYTHON

waiting=()
start() { # name of the log, backbone, words of run.py
  local log=$logs/$1.log backbone=$2
  shift 2
  timeout "$seconds" python3 experiments/run.py --data "$data" --protocol "$protocol" --backbone "$backbone" \
    --results "$out" --runs "${RUNS:-/tmp/hcml_runs}" "$@" ${extra[@]+"${extra[@]}"} >"$log" 2>&1 &
  waiting+=($!)
}

case $part in
  first)
    for seed in 0 1 2; do
      for method in full motion baseline; do
        start "table2_${method}_$seed" "$small" table2 --seeds $seed --methods $method
      done
    done
    start figure3 "$small" figure3 --seeds 0
    ;;
  second)
    for seed in 0 1 2; do
      start "table7_$seed" "$small" table7 --seeds $seed
      for method in full motion baseline; do
        start "ucf_${method}_$seed" "$small" table2 --dataset ucf101_6 --seeds $seed --methods $method
      done
    done
    for method in full motion baseline; do
      start "large_$method" "$large" table2 --seeds 0 --methods $method
    done
    ;;
  *) echo "first or second, not $part" >&2; exit 2 ;;
esac

failed=0
for job in "${waiting[@]}"; do wait "$job" || failed=1; done
if [ "$part" = first ]; then
  seconds=100
  start figure4 "$small" figure4 --seeds 0
  wait "${waiting[-1]}" || failed=1
fi
tail -n +1 "$logs"/*.log >"$out/gpu_$part.log"
tail -q -n 2 "$logs"/*.log
cat "$out"/*.csv
exit $failed
