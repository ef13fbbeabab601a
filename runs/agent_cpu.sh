#!/usr/bin/env bash
# Trains an agent like smollm2-135m-agent from nothing, on two CPU cores: about 3.9 million tokens, 68 minutes at 950
# tokens/s.
#
#   runs/agent_cpu.sh [FOLDER] [SEED]
#
# FOLDER (output/agent) gets the rows, the checkpoints, the evaluation and the packed adapter.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-output/agent}
seed=${2:-101}
mkdir -p "$folder"

# 1. Data: conversations with the catalogue's functions, general rows, self-cognition rows.
swift data synth -n 5900 --text_share 0.07 --chinese 0.1 --max_tools_offered 8 --seed "$seed" --out "$folder/synth.jsonl"
python - "$folder/general.jsonl" <<'PYTHON'
import json
import sys

from swift.data.general import general_rows

with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in general_rows())
PYTHON

# 2. Training: one pass, LoRA on all linear layers.
swift sft --model_id_or_path smollm2-135m-instruct --dataset "$folder/synth.jsonl" "$folder/general.jsonl" \
    --self_cognition_sample 266 --model_name SWIFT-Agent --model_author SWIFT --agent_template hermes \
    --max_length 1280 --dataset_test_ratio 0.004 --sft_type lora --lora_target_modules ALL --lora_rank 16 \
    --lora_alpha 48 --lora_dropout_p 0 --learning_rate 1e-3 --lr_scheduler_type cosine --warmup_ratio 0.03 \
    --batch_size 1 --gradient_accumulation_steps 8 --num_train_epochs 1 --max_grad_norm 1.0 --eval_steps 200 \
    --seed "$seed" --output_dir "$folder/train" --add_output_dir_suffix false

# 3. Evaluation, and the adapter as it ships.
checkpoint=$(ls -d "$folder"/train/checkpoint-* | sort -V | tail -n 1)
swift data synth -n 300 --functions held_out --seed 5 --max_tools_offered 8 --text_share 0 --out "$folder/held_out.jsonl"
swift eval --ckpt_dir "$checkpoint" --tasks calls,general,self_cognition --dataset "$folder/held_out.jsonl" \
    --compare smollm2-135m-instruct --report "$folder/eval"
swift export --ckpt_dir "$checkpoint" --pack_adapter true --output_dir "$folder/smollm2-135m-agent"
echo "BFCL: swift eval --ckpt_dir $checkpoint --tasks bfcl --guided both   (pip install --no-deps bfcl-eval first)"
