"""The fast paths of training on CPUs: LoRA and full fine-tuning in C++ of ours and in torch."""
