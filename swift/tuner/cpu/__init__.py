"""The fast paths of training on CPUs: LoRA in C++, LoRA and full fine-tuning by torch's functions."""
