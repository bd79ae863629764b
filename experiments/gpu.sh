#!/usr/bin/env bash
# All experiments that need a GPU, in four independent calls of under ten minutes each.
#
#   DATA=folder [OUT=folder] [WHEELS=folder] [SECONDS_LEFT=560] [COMMIT=abc1234] experiments/gpu.sh first|second|third|fourth
#
# first:  Table 2 with R2D-50 on utdmhad_depth27, three seeds; Figure 4; flow on synthetic videos.
# second: Table 7 on utdmhad_depth27, three seeds, and Table 2 with R(2+1)D-101, one seed.
# third:  Table 2 with R2D-50 on ucf101_6, three seeds.
# fourth: the same as third, on dense clips.
# Each call needs one of the datasets in DATA. The script downloads nothing: packages imported below that are not
# installed can be put into WHEELS as wheels. One process for each seed and method runs at the same time; when the time
# is over, the rows written so far remain in the tables. OUT gets the tables, the figures and an archive of the logs.
# To try the script quickly: PROTOCOL=cpu SMALL=r2d_tiny LARGE=r2d_tiny EXTRA='--trainer.max_epochs=1 --trainer.limit_train_batches=1 --trainer.check_val_every_n_epoch=1'.
set -uo pipefail
cd "$(dirname "$0")/.."

part=${1:?first, second, third or fourth}
end=$((SECONDS + ${SECONDS_LEFT:-560}))
data=${DATA:?folder of the datasets}
out=${OUT:-experiments/results_gpu}
protocol=${PROTOCOL:-gpu}
read -r -a extra <<<"${EXTRA:-}"
large=${LARGE:-r2plus1d101}
small=${SMALL:-r2d50}
packages=$(mktemp -d) logs=$(mktemp -d)
mkdir -p "$out"
trap 'tar -czf "$out/logs_$part.tgz" -C "$logs" .; rm -rf "$packages" "$logs"' EXIT
trap 'exit 143' TERM
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
if [ -n "${WHEELS:-}" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$packages" "$WHEELS"/*.whl || exit
  export PYTHONPATH=$PYTHONPATH:$packages
fi
# Report missing packages before any job starts. Lightning's command line needs those of jsonargparse[signatures].
python3 - "$part" <<'PYTHON' || exit
import sys
import av, docstring_parser, einops, jsonargparse, matplotlib, pytorch_lightning.cli, torchmetrics, torchvision, typeshed_client
import hcml_lightning.cli
if sys.argv[1] == "first":
    import cv2, pytorch_grad_cam
PYTHON

waiting=()
start() { # seconds to leave for others, name of the log, backbone, words of run.py
  local seconds=$((end - SECONDS - $1)) log=$logs/$2.log backbone=$3
  shift 3
  # A stage that receives SIGTERM ends after its next batch, which takes too long in a validation: kill it after 15 s.
  timeout -k 15 $((seconds > 20 ? seconds - 15 : 5)) python3 experiments/run.py --data "$data" --protocol "$protocol" --backbone "$backbone" \
    --results "$out" --runs "${RUNS:-/tmp/hcml_runs}" "$@" ${extra[@]+"${extra[@]}"} >"$log" 2>&1 &
  waiting+=($!)
}

case $part in
  first)
    for seed in 0 1 2; do
      for method in full motion baseline; do
        start 100 "table2_${method}_$seed" "$small" table2 --seeds $seed --methods $method
      done
    done
    start 100 figure3 "$small" figure3 --seeds 0
    ;;
  second)
    for seed in 0 1 2; do
      start 0 "table7_$seed" "$small" table7 --seeds $seed
    done
    for method in full motion baseline; do
      start 0 "large_$method" "$large" table2 --seeds 0 --methods $method
    done
    ;;
  third | fourth)
    experiment=$([ "$part" = third ] && echo table2 || echo dense)
    for seed in 0 1 2; do
      for method in full motion baseline; do
        start 0 "ucf_${method}_$seed" "$small" "$experiment" --dataset ucf101_6 --seeds $seed --methods $method
      done
    done
    ;;
  *) echo "first, second, third or fourth, not $part" >&2; exit 2 ;;
esac

failed=0
for job in "${waiting[@]}"; do wait "$job" || failed=1; done
if [ "$part" = first ]; then
  start 0 figure4 "$small" figure4 --seeds 0
  wait "${waiting[-1]}" || failed=1
fi
tail -q -n 2 "$logs"/*.log
cat "$out"/*.csv
exit $failed
