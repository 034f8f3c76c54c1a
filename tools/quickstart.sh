#!/usr/bin/env bash
# From a fresh checkout to a trained detector: environment, generated dataset, training, evaluation,
# table, figure, and its AP with the residual branches of res4 and res5 taken as 0. Writes into
# output/quickstart; LAMBDA_DET_OUTPUT names another folder.
set -euo pipefail
# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh" run

output=${LAMBDA_DET_OUTPUT:-output/quickstart}
data=$output/shapes
config=configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml
log=$output/train.log
mkdir -p "$output"

echo "== dataset"
"$env_python" tools/make_shapes_dataset.py --output "$data"

echo "== training Mask R-CNN with LambdaResNet-50-FPN from scratch on the CPU (everything: $log)"
# On the screen: the progress lines and, from there on, the table of the evaluation.
"$env_python" -W ignore tools/train_net.py --config-file "$config" \
    DATASETS.COCO_FOLDER "$data" OUTPUT_DIR "$output" 2>&1 | tee "$log" |
    sed -un -e '/engine\.progress\]/ s/^.*progress\]: //p' -e '/^error: /p' \
        -e '/mean |last norm|/ s/^.*branches\]: //p' \
        -e '/Evaluation of/,$ { s/^.*lambda_det\]: /\n/; p }' ||
    { echo "error: training failed, see $log" >&2; exit 1; }

echo "== figure"
"$env_python" -W ignore tools/draw_predictions.py \
    --annotations "$data/annotations/instances_val2017.json" --images "$data/val2017" \
    --predictions "$output/inference/coco_instances_results.json" \
    --metrics "$output/inference/metrics.json" --output "$output/predictions.png"

echo "== control: the same weights, with the residual branches of res4 and res5 taken as 0"
"$env_python" -W ignore tools/evaluate.py --config-file "$output/config.yaml" --zeroed res4,res5 \
    DATASETS.COCO_FOLDER "$data" OUTPUT_DIR "$output" MODEL.WEIGHTS "$output/model_final.pth" \
    > "$output/zeroed.log" 2>&1 ||
    { echo "error: the evaluation failed, see $output/zeroed.log" >&2; exit 1; }
sed -n '/(percent):$/,$p' "$output/zeroed.log"
"$env_python" -W ignore tools/record_run.py --controls "$output"

cat << TEXT

Ground truth beside predictions: $output/predictions.png
Weights: $output/model_final.pth    metrics: $output/inference/metrics.json
Log: $log    curves: $env_python -m tensorboard.main --logdir $output

Next, on COCO or your own data in COCO layout (annotations/instances_train2017.json, train2017/ ...):
  $env_python tools/train_net.py --num-gpus 8 \\
    --config-file configs/COCO-InstanceSegmentation/mask_rcnn_lambda_R_101_FPN_lsj.yaml \\
    DATASETS.COCO_FOLDER /path/to/your/folder
TEXT
