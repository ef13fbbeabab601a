#!/usr/bin/env bash
# The tutorial's recipe for a 7B model: agent data mixed 1 : 2 with general data, self-cognition rows, LoRA on all linear
# layers. One GPU with 24 GB, or several on one machine.
#
#   runs/agent_7b.sh [GPUS] [MODEL] [DATASET]
#
# GPUS: 1 (the default) or more, such as 8. DATASET: agent rows; the default is ms-agent, as in the tutorial.
set -euo pipefail
cd "$(dirname "$0")/.."
gpus=${1:-1}
model=${2:-qwen/Qwen-7B-Chat}
dataset=${3:-ms-agent}

flags=(
    --model_id_or_path "$model" --dtype AUTO --sft_type lora --output_dir output --dataset "$dataset"
    --train_dataset_mix_ratio 2.0 --train_dataset_mix_ds ms-bench
    --self_cognition_sample 3000 --model_name 卡卡罗特 Kakarot --model_author 陶白白 Taobaibai
    --loss_scale AUTO --num_train_epochs 2 --max_length 2048 --check_dataset_strategy warning
    --lora_rank 8 --lora_alpha 32 --lora_dropout_p 0.05 --lora_target_modules ALL
    --gradient_checkpointing true --weight_decay 0.01 --learning_rate 5e-5 --max_grad_norm 0.5 --warmup_ratio 0.03
    --batch_size 2 --gradient_accumulation_steps $((32 / gpus > 0 ? 32 / gpus : 1)) # 64 rows a step on any number of GPUs
    --eval_steps 100 --save_steps 100 --save_total_limit 2 --logging_steps 10
)
NPROC_PER_NODE=$gpus exec swift sft "${flags[@]}"
