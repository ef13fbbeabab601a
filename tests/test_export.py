"""`swift export --merge_lora true` and `swift merge-lora`: a checkpoint becomes a folder that transformers loads."""

import json

import pytest
import torch
from tiny import tiny_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift import cli
from swift.assembly import loading
from swift.chat import Message
from swift.commands import export, infer
from swift.engine.sampling import SamplingParams
from swift.flag_groups import BackendFlags, ModelFlags
from swift.infer.chat import collect
from swift.model.devices import DTYPES
from swift.model.load import load_model
from swift.template import Renderer, template
from swift.tuner import adapter_files, lora, merge

CONFIG = {"model_type": "qwen-7b-chat", "template_type": "chatml", "sft_type": "lora", "dtype": "AUTO"}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_checkpoint(tmp_path, tie=True, recorded=CONFIG, sizes=None, strength=0.1, **options):
    """A base model, and a LoRA checkpoint that changes what it computes."""
    base = tiny_model_folder(tmp_path / "base", tie=tie, **(sizes or {}))
    tuned = lora.attach(load_model(base, device="cpu"), lora.LoraOptions(**{"targets": ("ALL",), **options}))
    torch.manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * strength
    checkpoint = tmp_path / "run" / "checkpoint-10"
    adapter_files.save(tuned, checkpoint)
    record = {**recorded, "model_id_or_path": str(base)}
    (checkpoint / "sft_args.json").write_text(json.dumps(record))
    return checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return make_checkpoint(tmp_path)


def swift(*argv):
    return cli.main([*map(str, argv), "--device", "cpu"])


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 60, 7, 100, 258]])).logits


def adapter_logits(checkpoint):
    base = load_model(checkpoint.parents[1] / "base", device="cpu")
    return logits(adapter_files.load(base, checkpoint))


@pytest.mark.parametrize("verb", ["export", "merge-lora"])
def test_the_merged_folder_loads_in_transformers_and_computes_the_same(checkpoint, verb):
    flags = ["--merge_lora", "true"] if verb == "export" else []
    assert swift(verb, "--ckpt_dir", checkpoint, *flags) == 0
    merged = AutoModelForCausalLM.from_pretrained(f"{checkpoint}-merged", dtype=torch.float32)
    assert torch.allclose(logits(merged), adapter_logits(checkpoint), atol=1e-5)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("options", [{"targets": ("ALL", "EMBEDDING")}, {"modules_to_save": ("lm_head",)}])
def test_an_adapter_on_embeddings_or_head_is_merged_too(tmp_path, tie, options):
    checkpoint = make_checkpoint(tmp_path, tie, **options)
    assert swift("merge-lora", "--ckpt_dir", checkpoint) == 0
    merged = AutoModelForCausalLM.from_pretrained(f"{checkpoint}-merged", dtype=torch.float32)
    assert not merged.config.tie_word_embeddings
    assert torch.allclose(logits(merged), adapter_logits(checkpoint), atol=1e-5)


def test_the_merged_folder_brings_the_chat_template_and_its_stop_tokens(checkpoint):
    swift("merge-lora", "--ckpt_dir", checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(f"{checkpoint}-merged")
    messages = [("user", "hi"), ("assistant", "Hello. 你好"), ("user", "and?")]
    renderer = Renderer(tokenizer, template("chatml"))
    asked = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in messages], add_generation_prompt=True, return_dict=False
    )
    ours = renderer.prompt_tokens([Message(role, text) for role, text in messages])
    assert tokenizer.decode(asked) == tokenizer.decode(ours)
    merged = AutoModelForCausalLM.from_pretrained(f"{checkpoint}-merged")
    eos = merged.generation_config.eos_token_id
    assert (eos if isinstance(eos, list) else [eos]) == list(renderer.stop.tokens)


def test_a_template_whose_stop_is_not_the_tokenizers_adds_its_stop(checkpoint):
    base = checkpoint.parents[1] / "base"
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))
    swift("merge-lora", "--ckpt_dir", checkpoint)
    merged = AutoModelForCausalLM.from_pretrained(f"{checkpoint}-merged")
    assert sorted(merged.generation_config.eos_token_id) == [0, 2]


def test_the_system_text_of_the_training_is_the_templates_default(tmp_path):
    checkpoint = make_checkpoint(tmp_path, recorded={**CONFIG, "system": 'You are Kakarot\'s "friend".'})
    swift("merge-lora", "--ckpt_dir", checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(f"{checkpoint}-merged")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert 'You are Kakarot\'s "friend".' in text and "helpful" not in text


def test_the_records_name_the_folder_a_full_model(checkpoint):
    swift("merge-lora", "--ckpt_dir", checkpoint)
    folder = checkpoint.with_name("checkpoint-10-merged")
    recorded = json.loads((folder / "sft_args.json").read_text())
    assert (recorded["sft_type"], recorded["model_type"], recorded["template_type"]) == (
        "full",
        "qwen-7b-chat",
        "chatml",
    )
    assert json.loads((folder / "configuration.json").read_text())["model_type"] == "qwen-7b-chat"


def test_weights_are_saved_in_the_requested_dtype(checkpoint):
    assert swift("merge-lora", "--ckpt_dir", checkpoint, "--dtype", "bf16") == 0
    folder = checkpoint.with_name("checkpoint-10-merged")
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    as_fp32 = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = adapter_logits(checkpoint)
    assert (logits(as_fp32) - expected).abs().max() < 0.02 * expected.abs().max()


def strong_in_bf16(tmp_path):
    """A bf16 model, and an adapter saved in bf16 that outweighs it; what it computes in fp32."""
    checkpoint = make_checkpoint(tmp_path, strength=1.0, dtype="bf16")
    base = checkpoint.parents[1] / "base"
    load_model(base, "bf16", device="cpu").save_pretrained(base)
    tuned = adapter_files.load(load_model(base, "fp32", device="cpu"), checkpoint)
    assert {p.dtype for name, p in tuned.named_parameters() if "lora_" in name} == {torch.bfloat16}
    return checkpoint, merge.merge(tuned.float())


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_strong_adapter_in_bf16_is_merged_in_fp32_and_rounded_once(tmp_path, dtype):
    checkpoint, expected = strong_in_bf16(tmp_path)
    assert swift("merge-lora", "--ckpt_dir", checkpoint, "--dtype", dtype) == 0
    merged = AutoModelForCausalLM.from_pretrained(f"{checkpoint}-merged").state_dict()
    for name, weight in expected.state_dict().items():
        assert torch.equal(merged[name], weight.to(DTYPES[dtype])), name


def test_a_wrong_merge_of_a_strong_adapter_in_bf16_is_refused(tmp_path, capsys, monkeypatch):
    checkpoint, _ = strong_in_bf16(tmp_path)
    monkeypatch.setattr(merge, "merge", lambda model: model.unload())
    assert swift("merge-lora", "--ckpt_dir", checkpoint, "--dtype", "bf16") == 2
    assert "differ from the adapter" in capsys.readouterr().err


def test_an_adapter_of_another_program_needs_a_template(checkpoint, capsys):
    (checkpoint / "sft_args.json").unlink()
    assert swift("merge-lora", "--ckpt_dir", checkpoint) == 2
    assert "--template_type" in capsys.readouterr().err
    assert swift("merge-lora", "--ckpt_dir", checkpoint, "--template_type", "qwen") == 0


def test_export_without_merging_has_nothing_to_do(checkpoint, capsys):
    assert swift("export", "--ckpt_dir", checkpoint) == 2
    assert "--merge_lora true" in capsys.readouterr().err


def test_export_keeps_an_existing_folder_and_merge_lora_replaces_it(checkpoint, capsys):
    merged = checkpoint.with_name("checkpoint-10-merged")
    swift("merge-lora", "--ckpt_dir", checkpoint)
    (merged / "note").write_text("mine")
    assert swift("export", "--merge_lora", "true", "--ckpt_dir", checkpoint) == 2
    assert "exists" in capsys.readouterr().err
    assert (merged / "note").exists()
    assert swift("merge-lora", "--ckpt_dir", checkpoint) == 0
    assert not (merged / "note").exists() and (merged / "model.safetensors").exists()


def test_merge_lora_replaces_no_folder_that_it_did_not_write(checkpoint, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"x")
    assert swift("merge-lora", "--ckpt_dir", checkpoint, "--output_dir", tmp_path / "photos") == 2
    assert "is not a merged model" in capsys.readouterr().err
    assert (tmp_path / "photos" / "one.jpg").exists()


def left_over(checkpoint):
    return [path.name for path in checkpoint.parent.iterdir() if path != checkpoint]


def test_a_merge_that_computes_something_else_is_an_error_and_leaves_nothing(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(merge, "merge", lambda model: model.unload())
    assert swift("merge-lora", "--ckpt_dir", checkpoint) == 2
    assert "differ from the adapter" in capsys.readouterr().err
    assert left_over(checkpoint) == []


def test_a_folder_that_reads_back_as_something_else_is_an_error_and_leaves_nothing(checkpoint, capsys, monkeypatch):
    real_merge = merge.merge

    def writes_wrong_weights(model):
        merged = real_merge(model)
        write = merged.save_pretrained

        def save_pretrained(folder):
            merged.model.norm.weight.data.mul_(1.01)
            write(folder)

        monkeypatch.setattr(merged, "save_pretrained", save_pretrained)
        return merged

    monkeypatch.setattr(merge, "merge", writes_wrong_weights)
    assert swift("merge-lora", "--ckpt_dir", checkpoint) == 2
    assert "read back" in capsys.readouterr().err
    assert left_over(checkpoint) == []


def test_an_error_leaves_an_earlier_merge_as_it_was(checkpoint, monkeypatch):
    swift("merge-lora", "--ckpt_dir", checkpoint)
    folder = checkpoint.with_name("checkpoint-10-merged")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(merge, "merge", lambda model: model.unload())
    assert swift("merge-lora", "--ckpt_dir", checkpoint) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def cut(file):
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: (path / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
        (lambda path: (path / "adapter_config.json").unlink(), "neither adapter_config.json nor config.json is there"),
        (lambda path: cut(path / "adapter_model.safetensors"), "half-written or damaged"),
        (lambda path: (path / "sft_args.json").write_text("{"), "sft_args.json: half-written or damaged"),
        (lambda path: (path / "sft_args.json").write_text('{"sft_type": "full"}'), "no adapter to merge"),
        (lambda path: (path.parents[1] / "base" / "config.json").unlink(), "no config.json"),
        (
            lambda path: (path.parents[1] / "base").rename(path.parents[1] / "moved"),
            "give its place as --model_id_or_path",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_merged_is_an_error_of_one_line(checkpoint, capsys, damage, problem):
    damage(checkpoint)
    capsys.readouterr()
    assert swift("merge-lora", "--ckpt_dir", checkpoint) == 2
    error = capsys.readouterr().err.strip()
    assert problem in error and "\n" not in error
    assert left_over(checkpoint) == []


def test_the_folder_of_a_run_points_to_its_checkpoint(checkpoint, capsys):
    assert swift("merge-lora", "--ckpt_dir", checkpoint.parent) == 2
    assert f"did you mean {checkpoint}?" in capsys.readouterr().err


def test_a_missing_checkpoint_is_an_error(tmp_path, capsys):
    assert swift("export", "--merge_lora", "true", "--ckpt_dir", tmp_path / "none") == 2
    assert "no such folder" in capsys.readouterr().err


def test_main_returns_the_folder(checkpoint):
    folder = export.main(export.Config(ckpt_dir=str(checkpoint), merge_lora=True))
    assert folder == checkpoint.with_name("checkpoint-10-merged")


# Fewer bits


def test_missing_rows_are_an_error_before_the_model_is_loaded(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("swift.model.calibration.check", lambda method: None)
    monkeypatch.setattr(export, "load_merged", lambda choice: pytest.fail("the model was loaded"))
    flags = ["--quant_bits", 4, "--quant_method", "gptq", "--dataset", "nowhere.jsonl"]
    assert swift("export", "--ckpt_dir", checkpoint, *flags) == 2
    assert "nowhere.jsonl: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "method, bits, package",
    [
        ("bnb", 4, "bitsandbytes"),
        ("bnb", 8, "bitsandbytes"),
        ("torchao", 8, "torchao"),
        ("gptq", 4, "llmcompressor"),
        ("gptq", 8, "llmcompressor"),
    ],
)
def test_a_checkpoint_is_written_with_fewer_bits_and_reads_back(tmp_path, capsys, monkeypatch, method, bits, package):
    pytest.importorskip(package)
    checkpoint = make_checkpoint(tmp_path, sizes={"hidden_size": 128, "intermediate_size": 128})
    flags = ["--ckpt_dir", checkpoint, "--quant_bits", bits, "--quant_method", method]
    if method == "gptq":
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"query": "one", "response": "two"}\n' * 9)
        flags += ["--dataset", rows, "--quant_n_samples", 8]
    assert swift("export", *flags) == 0
    folder = checkpoint.with_name(f"checkpoint-10-{method}-int{bits}")
    again = load_model(folder, "bf16", "cpu")
    expected = adapter_logits(checkpoint)
    assert torch.cosine_similarity(logits(again).float().flatten(), expected.flatten(), dim=0) > 0.8
    assert "quantization_config" in json.loads((folder / "config.json").read_text())
    for bf16 in (True, False):
        monkeypatch.setattr("swift.model.devices._has_bf16", lambda bf16=bf16: bf16)
        chat = loading.load_chat(infer.Config(ModelFlags(device="cpu"), BackendFlags(ckpt_dir=str(folder))))
        assert collect(chat((Message("user", "Hi"),), params=SamplingParams(max_tokens=2))).usage.completion_tokens
        chat.engine.close()
    assert swift("export", *flags) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--quant_bits", "4", "--quant_method", "gptq"], "pip install 'swift-agents[gptq]'"),
        (["--quant_bits", "4", "--quant_method", "awq"], "pip install 'swift-agents[gptq]'"),
        (["--quant_bits", "4", "--dataset", "rows.jsonl"], "--dataset is for --quant_bits with --quant_method gptq"),
        (["--quant_bits", "4", "--to_gguf", "F16"], "exclude each other"),
        (["--quantization_bit", "4"], "to write quantised weights give --quant_bits"),
        (["--quant_bits", "4", "--quant_method", "hqq"], "hqq needs"),
    ],
)
def test_what_cannot_be_quantised_here_is_an_error_before_anything_is_loaded(
    checkpoint, capsys, monkeypatch, flags, why
):
    for module in ("calibration", "quantise"):
        monkeypatch.setattr(f"swift.model.{module}.find_spec", lambda name: None)
    assert swift("export", "--ckpt_dir", checkpoint, *flags) == 2
    assert why in capsys.readouterr().err
    assert left_over(checkpoint) == []
