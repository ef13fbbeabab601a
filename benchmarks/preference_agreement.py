"""Compares the losses and gradients of `swift rlhf` with those of TRL's trainers, on the same tokens and weights.

    python benchmarks/preference_agreement.py --cache ~/.cache/swift-benchmarks

A random two-layer Llama in fp32 with LoRA whose B is not zero, and random pairs and labelled completions. TRL computes
each loss in its own environment, which the first run creates. DPO, IPO, hinge and KTO are compared with the losses that
TRL's trainers compute, and the gradients of all adapters. ORPO is compared with TRL's odds ratio loss and its gradient:
the other term of TRL's ORPO is the likelihood of prompts too, which SWIFT leaves out.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import environments
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from swift.chat import Sample
from swift.train import preference, preference_losses, reference
from swift.train.objective import Objective
from swift.train.sample_cache import CompactSamples
from swift.tuner.cpu import fused

BETA = 0.2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRL_JOB = """
import json, sys, types
from pathlib import Path
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from tokenizers import Tokenizer, models
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOTrainer
folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, "<pad>")),
                                    pad_token="<pad>", eos_token="<end>")
lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, target_modules=job["targets"])
common = dict(use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", beta=job["beta"],
              per_device_train_batch_size=len(job["pairs"]), remove_unused_columns=False)
found = {}
def gradients(trainer, rows, name):
    for parameter_name, parameter in trainer.model.named_parameters():
        if parameter_name in weights:
            parameter.data.copy_(weights[parameter_name])
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    found[name] = loss.item()
    save_file({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None},
              folder / f"{name}.safetensors")
weights = load_file(folder / "adapter.safetensors")
for name in ("sigmoid", "ipo", "hinge"):
    trainer = DPOTrainer(LlamaForCausalLM.from_pretrained(folder / "base", dtype=torch.float32),
                         args=DPOConfig(str(folder / "out"), loss_type=name, **common), peft_config=lora,
                         train_dataset=Dataset.from_list([dict(prompt="<end>", chosen="<end>", rejected="<end>")] * 6),
                         processing_class=tokenizer)
    gradients(trainer, job["pairs"], name)
trainer = KTOTrainer(LlamaForCausalLM.from_pretrained(folder / "base", dtype=torch.float32),
                     args=KTOConfig(str(folder / "out"), undesirable_weight=1.5, **common), peft_config=lora,
                     train_dataset=Dataset.from_list([dict(prompt="<end>", completion="<end>", label=True)] * 6),
                     processing_class=tokenizer)
gradients(trainer, job["judged"], "kto")
chosen, rejected = (torch.tensor(each, requires_grad=True) for each in job["means"])
stub = types.SimpleNamespace(beta=job["beta"], accelerator=types.SimpleNamespace(device="cpu"))
loss = -ORPOTrainer.odds_ratio_loss(stub, chosen, rejected)[0].mean()
loss.backward()
found["orpo"] = loss.item()
save_file({"chosen": chosen.grad, "rejected": rejected.grad}, folder / "orpo.safetensors")
(folder / "losses.json").write_text(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/swift-benchmarks"), help="folder of environments")
    python = environments.python("trl", parser.parse_args().cache.expanduser())
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base().save_pretrained(folder / "base")
        weights = {name: each.detach() for name, each in model().named_parameters() if each.requires_grad}
        save_file(weights, folder / "adapter.safetensors")
        pairs, judged = random_rows(6, 2), random_rows(6, 1)
        labels = [at % 3 != 0 for at in range(len(judged))]
        before = [judged[-1], *judged[:-1]]
        means = [[-0.3, -2.0, -1e-3], [-0.7, -1.5, -9.0]]
        job = {
            "targets": TARGETS,
            "beta": BETA,
            "means": means,
            "pairs": [{"prompt_ids": p, "chosen_ids": one, "rejected_ids": other} for p, one, other in pairs],
            "judged": [
                {"prompt_ids": prompt, "completion_ids": one, "KL_completion_ids": previous[1], "label": label}
                for (prompt, one), previous, label in zip(judged, before, labels, strict=True)
            ],
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        ran = subprocess.run([python, "-c", TRL_JOB, folder], capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(ran.stderr[-3000:])
        theirs = json.loads((folder / "losses.json").read_text(encoding="utf-8"))
        samples = [Sample.joined([sample(prompt, one), sample(prompt, other)]) for prompt, one, other in pairs]
        own = [Sample.joined([sample(prompt, one)], label) for (prompt, one), label in zip(judged, labels, strict=True)]
        objectives: dict[str, tuple[Objective, list[Sample]]] = {
            "sigmoid": (preference.dpo(BETA), samples),
            "ipo": (preference.dpo(BETA, kind="ipo"), samples),
            "hinge": (preference.dpo(BETA, kind="hinge"), samples),
            "kto": (preference.Kto(BETA, 1.0, 1.5), list(preference.with_mismatched(own, -1))),
        }
        print("| loss | SWIFT | TRL | difference | largest difference of a gradient, of its largest entry |")
        print("|---|---:|---:|---:|---:|")
        for name, (objective, rows) in objectives.items():
            loss, gradients = computed(objective, rows)
            show(name, loss, theirs[name], gradients, load_file(folder / f"{name}.safetensors"))
        chosen, rejected = (torch.tensor(each, requires_grad=True) for each in means)
        ones = torch.ones(3)
        odds = preference_losses.Pairs(chosen, rejected, ones, ones, ones, ones)
        loss_of_odds = preference_losses.orpo(odds, BETA).mean()
        loss_of_odds.backward()
        assert chosen.grad is not None and rejected.grad is not None
        gradients = {"chosen": chosen.grad, "rejected": rejected.grad}
        show("odds ratio", loss_of_odds.item(), theirs["orpo"], gradients, load_file(folder / "orpo.safetensors"))


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, head_dim=16, pad_token_id=0, **sizes))


def model() -> Any:
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, target_modules=TARGETS)
    tuned = get_peft_model(base(), config)
    for name, each in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, 0, 0.2)
    return tuned


def random_rows(count: int, completions: int) -> list[list[list[int]]]:
    """A prompt and completions each, of random tokens."""
    chance = random.Random(count + completions)
    return [
        [[chance.randrange(2, 64) for _ in range(chance.randint(3, 20))] for _ in range(1 + completions)]
        for _ in range(count)
    ]


def sample(prompt: Sequence[int], completion: Sequence[int]) -> Sample:
    return Sample([*prompt, *completion], [0.0] * len(prompt) + [1.0] * len(completion))


def computed(objective: Objective, samples: Sequence[Sample]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and its gradients on the fast path."""
    tuned = model()
    assert not fused.why_not(tuned)
    fused.fuse(tuned)
    known = CompactSamples.in_memory(samples)
    known = known.with_references(reference.of_samples(tuned, known, packed=True).tolist())
    head, batch = tuned.get_output_embeddings(), objective.pack(known[:])
    totals = objective.totals([batch], lambda other: reference.log_likelihoods(tuned, head, other))
    if isinstance(objective, preference.Kto):
        assert totals[1] > 0, "the estimate of the divergence is cut at 0, so it is not compared"
    loss, _ = objective.loss(tuned, head, batch, totals)
    loss.backward()
    return loss.item(), {name: each.grad for name, each in tuned.named_parameters() if each.grad is not None}


def show(
    name: str, ours: float, theirs: float, gradients: dict[str, torch.Tensor], others: dict[str, torch.Tensor]
) -> None:
    assert gradients.keys() == others.keys(), (gradients.keys() ^ others.keys(), name)
    largest = max(float((gradients[each] - others[each]).abs().max() / others[each].abs().max()) for each in others)
    print(f"| {name} | {ours:.7f} | {theirs:.7f} | {abs(ours - theirs):.1e} | {largest:.1e} |")


if __name__ == "__main__":
    main()
