"""`swift export --to_gguf`: a model folder or a checkpoint becomes a file that computes and says the same elsewhere."""

import json
import time

import gguf
import pytest
import torch
from fastapi.testclient import TestClient
from test_export import make_checkpoint
from tiny import CHATML, tiny_model_folder
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from swift import cli
from swift.commands import deploy
from swift.model import gguf as reading
from swift.model import gguf_check, gguf_write
from swift.model.gguf_tokenizer import vocabulary
from swift.model.load import load_model
from swift.tuner import adapter_files, lora, merge

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = ["what will the weather be like tomorrow in paris", "the cat that sat there", "tomorrow we will see the weather"]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.15,
}
SCALED = {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def byte_tokenizer(before=(), own_way=True, normalizer=None):
    """Bytes merged as a few sentences suggest; `before`: what cuts the text first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own_way)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )


def sentencepiece_tokenizer():
    """Words as sentencepiece spells them, with a token for each byte that no word holds."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=pieces))
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [entry for entry in spec["added_tokens"] if entry["id"] < 3]
    spec["normalizer"] = None
    whole = Tokenizer.from_str(json.dumps(spec))
    return PreTrainedTokenizerFast(tokenizer_object=whole, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def random_model(config, tie=True, **changes):
    torch.manual_seed(0)
    settings = {**SIZES, "vocab_size": 300, "tie_word_embeddings": tie, **changes}
    model = AutoModelForCausalLM.from_config(config(**settings), dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += torch.randn_like(parameter) * 0.3
    return model


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize(
    "config, changes",
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"attention_bias": True}),
        (LlamaConfig, {"rope_parameters": {**SCALED, "rope_type": "linear"}}),
        (
            LlamaConfig,
            {"rope_parameters": {**SCALED, "rope_type": "llama3", "low_freq_factor": 1, "high_freq_factor": 4}},
        ),
        (MistralConfig, {"sliding_window": None}),
        (Qwen2Config, {}),
        (Qwen2Config, {"rope_parameters": {**SCALED, "rope_type": "yarn"}}),
        (Qwen3Config, {"head_dim": 32}),
    ],
)
def test_llama_cpp_computes_what_transformers_does(tmp_path, config, changes, tie):
    llama_cpp = pytest.importorskip("llama_cpp")
    model, tokenizer = random_model(config, tie, **changes), byte_tokenizer()
    gguf_write.write(model, tokenizer, [2], tmp_path / "m.gguf", "F16", "tiny")
    tokens = torch.randint(3, 300, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    other = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=256, logits_all=True, n_threads=1, verbose=False)
    other.eval(tokens)
    expected = logits(model, tokens)
    assert (torch.tensor(other.scores[:200]) - expected).abs().max() < 0.01 * expected.abs().max()
    text = "What 'll the wEather be in 2025?<|im_end|>\n"
    assert other.tokenize(text.encode(), add_bos=False, special=True) == tokenizer(text).input_ids
    other.close()


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config])
def test_transformers_reads_the_file_as_the_model_that_was_written(tmp_path, config):
    model = random_model(config)
    gguf_write.write(model, byte_tokenizer(), [2], tmp_path / "m.gguf", "F16", "tiny")
    again = reading.read_model(tmp_path / "m.gguf", torch.float32)
    tokens = list(range(3, 40))
    expected = logits(model, tokens)
    assert (logits(again, tokens) - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("kind, room", [("F16", 0.01), ("BF16", 0.05), ("Q8_0", 0.1)])
def test_each_format_stays_within_its_rounding(tmp_path, kind, room):
    model, tokenizer = random_model(LlamaConfig), byte_tokenizer()
    gguf_write.write(model, tokenizer, [2], tmp_path / "m.gguf", kind, "tiny")
    assert 0 < gguf_check.verify(tmp_path / "m.gguf", model, tokenizer) < room
    kept = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert kept["blk.0.ffn_up.weight"] == kind and kept["blk.0.attn_norm.weight"] == "F32"


def test_a_file_that_computes_something_else_is_an_error(tmp_path):
    model, tokenizer = random_model(LlamaConfig), byte_tokenizer()
    gguf_write.write(model, tokenizer, [2], tmp_path / "m.gguf", "F16", "tiny")
    model.model.layers[1].self_attn.q_proj.weight.data.mul_(1.5)
    with pytest.raises(ValueError, match="read back, computes something else"):
        gguf_check.verify(tmp_path / "m.gguf", model, tokenizer)


def test_a_value_too_great_for_f16_is_refused_and_bf16_takes_it(tmp_path):
    model = random_model(LlamaConfig)
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"ffn_down.*--to_gguf BF16"):
        gguf_write.write(model, byte_tokenizer(), [2], tmp_path / "m.gguf", "F16", "tiny")
    gguf_write.write(model, byte_tokenizer(), [2], tmp_path / "b.gguf", "BF16", "tiny")


@pytest.mark.parametrize(
    "config, changes, why",
    [
        (MistralConfig, {"sliding_window": 64}, "sliding attention over 64 tokens"),
        (LlamaConfig, {"rope_parameters": {**SCALED, "rope_type": "yarn"}}, "rotary embedding of type yarn"),
        (LlamaConfig, {"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused(tmp_path, config, changes, why):
    with pytest.raises(ValueError, match=why):
        gguf_write.write(random_model(config, **changes), byte_tokenizer(), [2], tmp_path / "m.gguf", "F16", "tiny")
    assert not (tmp_path / "m.gguf").exists()


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def test_the_way_of_cutting_text_is_named_as_llama_cpp_names_it():
    from transformers import Qwen2Tokenizer

    def named(tokenizer):
        return vocabulary(tokenizer, 400).pre

    assert named(byte_tokenizer()) == "gpt-2"
    assert named(byte_tokenizer([pre_tokenizers.Digits(individual_digits=True)])) == "smollm"
    words = byte_tokenizer().get_vocab()
    assert named(Qwen2Tokenizer(vocab=words, merges=[])) == "qwen2"
    with pytest.raises(ValueError, match="no known name for the tokenizer"):
        named(byte_tokenizer([split(r"\d+")]))
    with pytest.raises(ValueError, match="no known name for the tokenizer"):
        named(byte_tokenizer(own_way=False))


def test_tokens_are_marked_for_what_they_are_and_rows_without_a_word_are_filled():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    words = vocabulary(tokenizer, 310)
    assert [words.types[index].name for index in (2, 3, len(tokenizer) - 1, 309)] == [
        "CONTROL",
        "NORMAL",
        "USER_DEFINED",
        "UNUSED",
    ]
    assert len(words.tokens) == len(set(words.tokens)) == 310
    with pytest.raises(ValueError, match="a GGUF file holds one number"):
        vocabulary(tokenizer, 290)


def test_sentencepiece_words_come_back_in_the_same_order(tmp_path):
    tokenizer = sentencepiece_tokenizer()
    model = random_model(LlamaConfig, vocab_size=len(tokenizer))
    gguf_write.write(model, tokenizer, [2], tmp_path / "m.gguf", "F16", "tiny")
    gguf_check.verify(tmp_path / "m.gguf", model, tokenizer)


def test_llama_cpp_cuts_sentencepiece_text_as_the_tokenizer_does(tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    tokenizer = sentencepiece_tokenizer()
    model = random_model(LlamaConfig, vocab_size=len(tokenizer))
    gguf_write.write(model, tokenizer, [2], tmp_path / "m.gguf", "F16", "tiny")
    other = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    for text in ("what will the weather be like", "the cat 明天", "tomorrow  we</s>"):
        assert other.tokenize(text.encode(), add_bos=False, special=True) == tokenizer(text).input_ids
    other.close()


# Through the front door


def folder_with_merges(path, **config):
    """A model folder whose tokenizer has merges, as every real one does."""
    tiny_model_folder(path, **{"vocab_size": 300, **config})
    byte_tokenizer().save_pretrained(path)
    return path


def swift(*argv):
    return cli.main([*map(str, argv), "--device", "cpu"])


def only_file(folder):
    (file,) = folder.glob("*.gguf")
    return file


def test_a_checkpoint_is_merged_in_memory_and_its_template_and_stops_go_into_the_file(tmp_path):
    checkpoint = make_checkpoint(tmp_path)
    base = checkpoint.parents[1] / "base"
    byte_tokenizer().save_pretrained(base)
    assert swift("export", "--ckpt_dir", checkpoint, "--to_gguf", "true") == 2, "more words than rows"
    folder_with_merges(base)
    tuned = lora.attach(load_model(base, device="cpu"), lora.LoraOptions(targets=("ALL",)))
    torch.manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    adapter_files.save(tuned, checkpoint)
    assert swift("export", "--ckpt_dir", checkpoint, "--to_gguf", "true") == 0
    file = only_file(checkpoint.with_name("checkpoint-10-gguf"))
    tokens = list(range(3, 40))
    expected = logits(adapter_files.load(load_model(base, device="cpu"), checkpoint), tokens)
    again = reading.read_model(file, torch.float32)
    assert (logits(again, tokens) - expected).abs().max() < 0.01 * expected.abs().max()
    fields = gguf.GGUFReader(file).fields
    assert "<|im_start|>" in fields["tokenizer.chat_template"].contents()
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_a_strong_adapter_in_bf16_is_held_against_its_own_rounding(tmp_path, kind):
    base = folder_with_merges(tmp_path / "base")
    load_model(base, "bf16", device="cpu").save_pretrained(base)
    tuned = lora.attach(load_model(base, device="cpu"), lora.LoraOptions(targets=("ALL",), dtype="bf16"))
    torch.manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    checkpoint = tmp_path / "checkpoint-1"
    adapter_files.save(tuned, checkpoint)
    flags = ("--ckpt_dir", checkpoint, "--model", base, "--template_type", "chatml", "--to_gguf", kind)
    assert swift("export", *flags) == 0
    expected = merge.merge(adapter_files.load(load_model(base, "fp32", device="cpu"), checkpoint).float())
    again = reading.read_model(only_file(tmp_path / "checkpoint-1-gguf"), torch.float32).state_dict()
    for name, weight in expected.state_dict().items():
        room = {"F16": 2.0**-11, "BF16": 2.0**-8, "Q8_0": 1 / 200}[kind] * weight.abs().max()
        assert (again[name] - weight).abs().max() <= room + 1e-7, name


def test_llama_cpp_writes_four_bits_that_transformers_reads(tmp_path):
    pytest.importorskip("llama_cpp")
    folder = folder_with_merges(tmp_path / "base", hidden_size=256, intermediate_size=256)
    assert swift("export", "--model", folder, "--template_type", "chatml", "--to_gguf", "Q4_K_M") == 0
    file = only_file(tmp_path / "base-gguf")
    kept = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert kept["blk.0.ffn_up.weight"] == "Q4_K" and kept["blk.0.attn_norm.weight"] == "F32"
    again = reading.read_model(file, torch.float32).state_dict()
    for name, weight in load_model(folder, "fp32", device="cpu").state_dict().items():
        assert (again[name] - weight).abs().max() <= 2 / 15 * weight.abs().max(), name


def test_four_bits_without_llama_cpp_are_refused_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    folder = folder_with_merges(tmp_path / "base")
    monkeypatch.setattr("swift.model.gguf_k_quants.find_spec", lambda name: None)
    monkeypatch.setattr("swift.commands.export.load_merged", lambda choice: pytest.fail("the model was loaded"))
    assert swift("export", "--model", folder, "--to_gguf", "Q4_K_M") == 2
    assert "pip install llama-cpp-python" in capsys.readouterr().err
    assert not (tmp_path / "base-gguf").exists()


ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "{{ ().__class__.__mro__ }}": "reads '__class__' of a tuple, which the sandbox hides",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}": "reads '__init__'",
    "{% import 'os' as os %}": "needs another template, and has none",
    ENDLESS: "takes longer than 0.7 s",
    "{{ 'a' * 10**9 }}": "makes texts or lists of more than",
}


def file_with_template(path, template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    gguf_write.write(random_model(LlamaConfig), tokenizer, [2], path, "F16", "tiny")
    assert gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents() == template
    return path


@pytest.mark.parametrize("verb", ["infer", "deploy"])
def test_a_file_with_a_hostile_chat_template_is_one_line_and_exit_code_2(verb, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(deploy, "serve", lambda app, *_: pytest.fail("the template was accepted"))
    for hostile, what in HOSTILE.items():
        file = file_with_template(tmp_path / "m.gguf", CHATML + hostile)
        capsys.readouterr()
        began = time.thread_time()
        assert swift(verb, "--model_id_or_path", file) == 2
        assert time.thread_time() - began < 5, "CPU time of this thread, which a busy machine does not lengthen"
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("swift: error: the tokenizer's chat template ") and what in error


def test_a_template_in_a_file_that_is_hostile_to_some_dialogues_refuses_those_and_serves_others(tmp_path, monkeypatch):
    running = {each: what for each, what in HOSTILE.items() if "import" not in each}  # that is refused when it compiles
    whens = [f"{{% if messages[0].content == '{n}' %}}{each}{{% endif %}}" for n, each in enumerate(running)]
    file = file_with_template(tmp_path / "m.gguf", CHATML + "".join(whens))

    def answered(http, text):
        body = {"model": http.get("/v1/models").json()["data"][0]["id"], "max_tokens": 2}
        return http.post("/v1/chat/completions", json={**body, "messages": [{"role": "user", "content": text}]})

    def talk(app, *_):
        http = TestClient(app)
        for number, what in enumerate(running.values()):
            refused = answered(http, str(number))
            assert refused.status_code == 400 and what in refused.json()["error"]["message"]
            assert answered(http, "hi").json()["usage"]["completion_tokens"] == 2

    monkeypatch.setattr(deploy, "serve", talk)
    assert swift("deploy", "--model_id_or_path", file) == 0


def test_what_is_there_is_never_written_over_and_a_failure_leaves_nothing(tmp_path, capsys):
    folder = folder_with_merges(tmp_path / "base", model_type="qwen2")
    flags = ("export", "--model", folder, "--template_type", "chatml", "--to_gguf", "Q8_0")
    assert swift(*flags) == 0
    before = only_file(tmp_path / "base-gguf").read_bytes()
    assert swift(*flags) == 2
    assert "base-gguf exists" in capsys.readouterr().err
    assert only_file(tmp_path / "base-gguf").read_bytes() == before
    LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=300, hidden_act="gelu")).save_pretrained(folder)
    assert swift(*flags, "--output_dir", tmp_path / "other") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "gelu" in error
    assert not (tmp_path / "other").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "base-gguf"]


def test_ollama_gets_a_modelfile_next_to_the_weights(tmp_path):
    folder = folder_with_merges(tmp_path / "base")
    assert swift("export", "--model", folder, "--template_type", "chatml", "--to_ollama", "true") == 0
    written = (tmp_path / "base-ollama" / "Modelfile").read_text()
    assert written.startswith(f"FROM ./{only_file(tmp_path / 'base-ollama').name}\n")
    assert "{{ if .Tools }}" in written and "Use the following format:" in written
    for line in ('stop "<|im_end|>"', 'stop "Observation:"', "temperature 0.3"):
        assert f"\nPARAMETER {line}\n" in written


@pytest.mark.parametrize("tool_format, offers", [("hermes", True), ("qwen3_coder", False)])
def test_ollama_gets_the_tool_call_format_of_the_training_or_the_reason_why_not(tmp_path, capsys, tool_format, offers):
    folder = folder_with_merges(tmp_path / "base")
    (folder / "sft_args.json").write_text(json.dumps({"template_type": "chatml", "agent_template": tool_format}))
    assert swift("export", "--ckpt_dir", folder, "--to_ollama", "true") == 0
    written = (tmp_path / "base-ollama" / "Modelfile").read_text()
    assert ("<tool_call>" in written, ".Tools" in written, "Observation:" in written) == (offers, offers, False)
    told = "has no tools: Ollama's templates cannot express qwen3_coder: it writes each argument in a tag"
    assert (told in capsys.readouterr().err) != offers
