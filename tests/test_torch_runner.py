"""The decoder families computed without transformers' layers, against transformers."""

import copy

import pytest
import rounding
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from swift.engine.cpu import attention, products
from swift.engine.cpu.products import product
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.decoder import why_not
from swift.engine.runner import Chunk
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ROPE = {"rope_theta": 10000.0}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama with biases and stretched positions": (
        LlamaForCausalLM,
        LlamaConfig,
        {"attention_bias": True, "mlp_bias": True, "rope_parameters": {"rope_type": "llama3", **ROPE, **LLAMA3}},
    ),
    "llama with tied embeddings": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 9, "head_dim": 32}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen2 with windows above": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 32}),
    "phi3": (
        Phi3ForCausalLM,
        Phi3Config,
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, **ROPE}},
    ),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config, {"num_hidden_layers": 4}),
}


def made(name, **more):
    torch.manual_seed(0)
    kind, config, settings = FAMILIES[name]
    model = kind(config(**{**SIZES, **settings, **more})).eval()
    for part in model.modules():  # fresh norms and biases are ones and zeros, which would hide a mistake
        for key, tensor in part.named_parameters(recurse=False):
            if key == "bias" or "norm" in type(part).__name__.lower():
                torch.nn.init.normal_(tensor, 1.0 if key == "weight" else 0.0, 0.3)
    return model


def prompt(length, seed=0):
    return torch.randint(96, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def expected(model, *rows):
    with torch.inference_mode():
        return torch.stack([model(torch.tensor([row])).logits[0, -1].float() for row in rows])


def same(logits, wanted, tolerance=2e-4):
    torch.testing.assert_close(logits.float(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_its_logits_are_those_of_transformers(name):
    model = made(name)
    assert why_not(model) == ""
    runner = TorchRunner(model)
    long, short, third = prompt(40, 1), prompt(17, 2), prompt(30, 3)
    one, two = runner.open(), runner.open()
    # a prompt in chunks, together with a whole prompt and with decoding sequences
    same(runner.step([Chunk(one, long[:13], needs_logits=False), Chunk(two, short)]), expected(model, short))
    same(runner.step([Chunk(one, long[13:30], needs_logits=False), Chunk(two, [5])]), expected(model, [*short, 5]))
    three = runner.open()
    logits = runner.step([Chunk(three, third), Chunk(two, [6]), Chunk(one, long[30:])])
    same(logits, expected(model, third, [*short, 5, 6], long))
    # single tokens of rows of different length
    logits = runner.step([Chunk(three, [1]), Chunk(two, [2]), Chunk(one, [3])])
    same(logits, expected(model, [*third, 1], [*short, 5, 6, 2], [*long, 3]))
    # one sequence leaves; another takes its slot and begins with blocks read before
    blocks = [runner.read(one, start, start + 8) for start in range(0, 32, 8)]
    runner.close(two)
    four = runner.open(blocks, 29)
    same(runner.step([Chunk(four, long[29:]), Chunk(three, [7])]), expected(model, long, [*third, 1, 7]))


def test_long_chunks_through_sdpa_have_the_same_logits(monkeypatch):
    model = made("mistral")
    monkeypatch.setattr(attention, "SCORES", 0)
    runner = TorchRunner(model)
    state = runner.open()
    runner.step([Chunk(state, prompt(60)[:33], needs_logits=False)])
    same(runner.step([Chunk(state, prompt(60)[33:])]), expected(model, prompt(60)))


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_in_bf16_it_errs_no_more_than_transformers_does(name):
    exact, rounded = made(name), made(name).bfloat16()
    runner = TorchRunner(rounded)
    rows = [prompt(length, length) for length in (30, 31, 44)]
    logits = runner.step([Chunk(runner.open(), row) for row in rows]).float()
    wanted = expected(exact, *rows)
    assert (logits - wanted).norm() < 1.2 * (expected(rounded, *rows) - wanted).norm()


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_in_bf16_single_tokens_of_rows_of_any_length_err_no_more_than_transformers(name):
    exact, rounded = made(name), made(name).bfloat16()
    runner = TorchRunner(rounded)
    rows = [prompt(length, length) for length in (20, 33, 300)]
    states = [runner.open() for _ in rows]
    runner.step([Chunk(state, row[:-1], needs_logits=False) for state, row in zip(states, rows, strict=True)])
    logits = runner.step([Chunk(state, row[-1:]) for state, row in zip(states, rows, strict=True)]).float()
    wanted = expected(exact, *rows)
    assert (logits - wanted).norm() < 1.2 * (expected(rounded, *rows) - wanted).norm()


def test_logits_of_a_sequence_do_not_depend_on_the_others():
    model = made("llama")
    runner = TorchRunner(model)
    alone = runner.step([Chunk(runner.open(), prompt(20))])
    others = [Chunk(runner.open(), prompt(length, length)) for length in (3, 50, 20)]
    same(runner.step([*others, Chunk(runner.open(), prompt(20))])[-1:], alone, 1e-4)


def test_freeing_the_models_weights_changes_no_logits():
    model, other = made("qwen2"), made("qwen2")
    runner = TorchRunner(other, keep_weights=False)
    same(runner.step([Chunk(runner.open(), prompt(20))]), expected(model, prompt(20)))
    assert other.model.layers[0].mlp.down_proj.weight.is_meta
    assert other.lm_head.weight.is_meta


@pytest.fixture(params=["this processor", "VNNI"])
def multiplying(request, monkeypatch):
    """Products of 8 bits as this processor has them, and as one with VNNI has: QNNPACK's integers are the same."""
    if request.param == "VNNI":
        if torch.cpu._is_vnni_supported() or "qnnpack" not in torch.backends.quantized.supported_engines:
            pytest.skip("the processor has it, or nothing stands in for it")
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
        monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("multiplying")
def test_rounded_weights_make_nearly_the_same_product_each_row_for_itself(bits, dtype):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(64, 96) / 10, torch.randn(64), torch.randn(5, 96)
    x[2] *= 100
    made = product(weight.to(dtype), bias.to(dtype), bits)
    wanted = x @ weight.t() + bias
    y = made(x.to(dtype)).float()
    blocks = rounding.of_dtype(dtype, bits, weight, x, wanted)
    error = (rounding.of_products(bits, weight, x) ** 2 + blocks**2).sqrt()
    assert ((y - wanted).norm(dim=1) < rounding.MOST * error).all()
    alone = torch.cat([made(row[None].to(dtype)) for row in x]).float()
    assert ((y - alone).norm(dim=1) < rounding.MOST * rounding.between(bits, weight, x, blocks)).all()


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_gate_is_the_product_of_its_halves_whatever_multiplies_them(tiles, biased, monkeypatch):
    monkeypatch.setattr(products, "has_tiles", lambda *_: tiles)
    torch.manual_seed(0)
    weight, bias, x = torch.randn(64, 96), torch.randn(64) if biased else None, torch.randn(5, 96)
    made = products.gate(weight, bias, functional.silu)
    both = functional.linear(x, weight, bias)
    same(made.both(x), both)
    same(made(x), functional.silu(both[:, :32]) * both[:, 32:])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("multiplying")
def test_many_rows_go_through_rounded_weights_as_few_do(bits, dtype):
    torch.manual_seed(0)
    weight, x = torch.randn(128, 96).to(dtype) / 10, torch.randn(100, 96).to(dtype)
    made = product(weight, None, bits)
    few, y = torch.cat([made(rows) for rows in x.split(5)]).float(), made(x).float()
    blocks = rounding.of_dtype(dtype, bits, weight.float(), x.float(), few)
    assert ((y - few).norm(dim=1) < rounding.MOST * rounding.between(bits, weight.float(), x.float(), blocks)).all()
    # the same product, and one more rounding of the sum
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(made(x, add_NO=y.to(dtype)).float(), 2 * y, rtol=eps, atol=eps)


@pytest.mark.parametrize("bits, levels", [(8, 127), (4, 15)])
def test_a_model_whose_weights_are_on_the_grid_loses_nothing_by_rounding_them(bits, levels):
    model = made("llama")
    for part in model.model.layers.modules():
        if isinstance(part, torch.nn.Linear):
            steps = torch.randint(-(levels // 2) - 1, levels // 2 + 1, part.weight.shape)
            steps[:, ::32], steps[:, 1::32] = -(levels // 2) - 1, levels // 2
            part.weight.data = steps / levels
    engine = TorchEngine(model, (), bits=bits)
    runner = engine._runner
    logits = runner.step([Chunk(runner.open(), prompt(20, 1)), Chunk(runner.open(), prompt(33, 2))])
    wanted = expected(model, prompt(20, 1), prompt(33, 2))
    assert (logits - wanted).norm() / wanted.norm() < 0.05 * 2 ** (8 - rounding.activation_bits()), (
        "what activations and the head lose"
    )
    engine.close()


class Packed(torch.nn.Parameter):
    """As libraries keep weights of few bits."""


def test_other_models_go_through_their_own_layers_and_the_reason_is_told():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=2)).eval()
    assert "GPT2LMHeadModel is not one of LlamaForCausalLM" in why_not(gpt2)
    with pytest.raises(ValueError, match="weights of 8 bits: GPT2LMHeadModel is not one of"):
        TorchEngine(gpt2, (), bits=8)
    with pytest.raises(ValueError, match="4 or 8 bits, not 3"):
        TorchEngine(made("llama"), (), bits=3)
    tuned = get_peft_model(made("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    assert "wrapped, hooked or replaced" in why_not(tuned.get_base_model())
    hooked = made("llama")
    hooked.model.layers[0].register_forward_hook(lambda module, args, output: output)
    assert "wrapped, hooked or replaced" in why_not(hooked)
    packed = made("llama")
    packed.model.layers[0].mlp.down_proj.weight = Packed(packed.model.layers[0].mlp.down_proj.weight.data)
    assert "tensors of a library" in why_not(packed)
    stretched = {"rope_type": "dynamic", "factor": 2.0, **ROPE}
    assert "dynamic" in why_not(made("llama", rope_parameters=stretched))


# Adapters


def adapted(model, folder, seed, **settings):
    """Saves a random adapter of `model` in `folder`, and gives the model it is merged into."""
    tuned = get_peft_model(copy.deepcopy(model), LoraConfig(**{"r": 4, "lora_alpha": 8, **settings}))
    torch.manual_seed(seed)
    for name, tensor in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(tensor, 0, 0.1)
    tuned.save_pretrained(folder)
    return tuned.merge_and_unload().eval()


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "all of llama": ("llama", {"target_modules": ALL}),
    "two of a joined product": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    "joined products": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}),
    "ranks of their own": (
        "qwen3",
        {"target_modules": ALL, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}},
    ),
}


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "transformers"])
@pytest.mark.parametrize("name", CASES)
def test_adapters_in_one_batch_answer_as_each_merged_would(name, fast, tmp_path):
    family, settings = CASES[name]
    model = made(family)
    models = {"": model} | {f"a{seed}": adapted(model, tmp_path / f"a{seed}", seed, **settings) for seed in (1, 2)}
    engine = TorchEngine(copy.deepcopy(model), (), fast=fast)
    for each in ("a1", "a2"):
        engine.add_adapter(each, tmp_path / each)
    assert engine.adapters == ("a1", "a2")
    asked = [(each, prompt(length, length)) for length in (12, 150, 40) for each in models]
    replies = [engine.submit(row, SamplingParams(max_tokens=8, temperature=0, adapter=each)) for each, row in asked]
    for (each, row), reply in zip(asked, replies, strict=True):
        said = [step.token for step in reply]
        with torch.inference_mode():
            scores = models[each](torch.tensor([[*row, *said]])).logits[0, len(row) - 1 : -1]
        best = scores.max(-1).values
        assert ((best - scores[range(8), said]) < 1e-3).all(), f"{each}: not the most probable tokens"
    engine.close()


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "transformers"])
def test_adapters_come_and_go_while_requests_run(fast, tmp_path):
    model = made("llama")
    merged = adapted(model, tmp_path, 1, target_modules=ALL)
    engine = TorchEngine(copy.deepcopy(model), (), fast=fast)
    long = SamplingParams(max_tokens=100, temperature=0)
    plain = engine.submit(prompt(9), long)
    next(plain)
    engine.add_adapter("poet", tmp_path)
    with pytest.raises(ValueError, match="there is an adapter named 'poet'"):
        engine.add_adapter("poet", tmp_path)
    named = SamplingParams(max_tokens=100, temperature=0, adapter="poet")
    running = engine.submit(prompt(9), named)
    first = next(running).token
    engine.remove_adapter("poet")
    with pytest.raises(ValueError, match=r"no adapter is named 'poet' \(there is none\)"):
        engine.submit(prompt(9), named)
    said = [first, *(step.token for step in running)]
    assert said[:20] == _greedy(merged, prompt(9), 20)
    assert len(said) == 100
    assert [step.token for step in plain][:19] == _greedy(model, prompt(9), 20)[1:]
    engine.add_adapter("poet", tmp_path)
    again = SamplingParams(max_tokens=20, temperature=0, adapter="poet")
    assert [step.token for step in engine.submit(prompt(9), again)] == said[:20]
    with pytest.raises(ValueError, match="no adapter is named 'poem': did you mean poet"):
        engine.submit(prompt(9), SamplingParams(adapter="poem"))
    engine.close()


def _greedy(model, row, new):
    tokens = torch.tensor([row])
    ids = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, do_sample=False)
    return ids[0, len(row) :].tolist()


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "transformers"])
@pytest.mark.parametrize(
    "settings, reason",
    [
        (
            {"target_modules": ["q_proj"], "use_dora": True},
            "uses DoRA, which cannot be served with other adapters: merge",
        ),
        ({"target_modules": ["q_proj"], "bias": "lora_only"}, "trained biases"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, r"trained modules \(lm_head\)"),
        ({"target_modules": ["embed_tokens"]}, "no LoRA matrix|no linear layer|no product"),
    ],
)
def test_an_adapter_that_cannot_share_a_batch_is_refused_with_the_reason(fast, settings, reason, tmp_path):
    model = made("llama")
    adapted(model, tmp_path, 1, **settings)
    engine = TorchEngine(model, (), fast=fast)
    with pytest.raises(ValueError, match=reason):
        engine.add_adapter("a", tmp_path)
    assert engine.adapters == ()
    engine.close()


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "transformers"])
def test_an_adapter_of_another_model_or_none_at_all_is_refused(fast, tmp_path):
    adapted(made("llama", hidden_size=32), tmp_path / "small", 1, target_modules=["q_proj"])
    engine = TorchEngine(made("llama"), (), fast=fast)
    with pytest.raises(ValueError, match="of another model"):
        engine.add_adapter("a", tmp_path / "small")
    with pytest.raises(ValueError, match=r"adapter_config\.json is missing"):
        engine.add_adapter("a", tmp_path)
    (tmp_path / "small" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="half-written or damaged"):
        engine.add_adapter("a", tmp_path / "small")
    engine.close()
