"""Ready settings of the Train page, as words of command lines. A preset replaces only the flags that it names."""

from __future__ import annotations

from typing import NamedTuple

VERBS = ("sft", "rlhf")
ESSENTIALS = (
    *("model_id_or_path", "dataset", "sft_type", "lora_target_modules", "lora_rank", "rlhf_type", "beta"),
    *("num_train_epochs", "max_steps", "learning_rate", "batch_size", "gradient_accumulation_steps", "max_length"),
    *("train_dataset_mix_ratio", "self_cognition_sample", "model_name", "model_author", "eval_steps", "logging_steps"),
    *("max_minutes", "output_dir"),
)
"""The flags of the first section, in this order, of those that a command has."""


class Preset(NamedTuple):
    """`before`: a command that makes what the preset trains on; empty where nothing has to be made."""

    title: str
    about: str
    words: tuple[str, ...]
    before: tuple[str, ...] = ()


PRESETS = (
    Preset(
        "A quick look",
        "The bundled model learns a name in 20 steps. Needs no network and no data.",
        (
            *("sft", "--model_id_or_path", "smollm2-135m-instruct", "--self_cognition_sample", "64"),
            *("--model_name", "小斯", "Swifty", "--model_author", "我", "me", "--max_steps", "20"),
            *("--learning_rate", "1e-3", "--batch_size", "4", "--gradient_accumulation_steps", "1"),
            *("--logging_steps", "1", "--eval_steps", "10"),
        ),
    ),
    Preset(
        "An agent on a laptop",
        "The bundled model learns to call tools from 400 made-up conversations: some minutes on two cores.",
        (
            *("sft", "--model_id_or_path", "smollm2-135m-instruct", "--dataset", "output/agent_rows.jsonl"),
            *("--agent_template", "hermes", "--max_length", "1280", "--lora_target_modules", "ALL"),
            *("--lora_rank", "16", "--lora_alpha", "48", "--lora_dropout_p", "0", "--learning_rate", "1e-3"),
            *("--lr_scheduler_type", "cosine", "--gradient_accumulation_steps", "8", "--num_train_epochs", "1"),
            *("--max_grad_norm", "1.0", "--eval_steps", "25", "--logging_steps", "1"),
        ),
        ("data", "synth", "-n", "400", "--max_tools_offered", "8", "--out", "output/agent_rows.jsonl"),
    ),
    Preset(
        "The tutorial's recipe",
        "Qwen-7B-Chat on ms-agent with general and self-cognition rows. Downloads both; needs a GPU.",
        (
            *("sft", "--model_id_or_path", "qwen/Qwen-7B-Chat", "--sft_type", "lora", "--dataset", "ms-agent"),
            *("--train_dataset_mix_ratio", "2.0", "--self_cognition_sample", "3000", "--model_name", "卡卡罗特"),
            *("--model_author", "陶白白", "--lora_target_modules", "ALL", "--learning_rate", "5e-5"),
            *("--num_train_epochs", "2", "--max_length", "2048", "--check_dataset_strategy", "warning"),
        ),
    ),
)
