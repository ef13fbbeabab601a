"""Models of the user's own: a TOML file gives them a name, and a Python function reads what is odd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_model_folder

from swift import cli, flags
from swift.assembly import checkpoints, loading, merging
from swift.commands import infer
from swift.flag_groups import ModelFlags
from swift.model import catalog, location
from swift.model.load import load_model, load_tokenizer

ROW = {"query": "hi", "response": "hello"}
FUNCTIONS = """
from transformers import AutoModelForCausalLM, AutoTokenizer

def model(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder / "inner", **options)

def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder / "inner")

def broken(folder, **options):
    return {}["weights"]

def other(folder, **options):
    return 5
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_model_folder(tmp_path / "mine" / "tiny")
    tiny_model_folder(tmp_path / "mine" / "odd" / "inner")
    (tmp_path / "mine" / "rows.jsonl").write_text((json.dumps(ROW) + "\n") * 8)
    (tmp_path / "mine" / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "mine" / "my.toml").write_text("""
[datasets.tickets]
path = "rows.jsonl"

[models.small]
path = "tiny"
template = "zephyr"
lora = ["down_proj"]

[models.odd]
of = "qwen-7b-chat"
path = "odd"
lora = ["q_proj"]
model = "functions.py:model"
tokenizer = "functions.py:tokenizer"
""")
    return tmp_path


def sft(name: str) -> Path:
    given = ["--model_type", name, "--dataset", "tickets", "--registry", "mine/my.toml", "--dataset_test_ratio", "0"]
    few = ["--max_steps", "1", "--report_to", "none", "--device", "cpu", "--output_dir", "out"]
    assert cli.main(["sft", *given, *few]) == 0
    return max(Path("out").rglob("checkpoint-1")).resolve()


@pytest.mark.parametrize(
    ("name", "folder", "template", "target"),
    [("small", "tiny", "zephyr", "down_proj"), ("odd", "odd", "qwen", "q_proj")],
)
def test_a_name_of_ones_own_works_in_every_command(
    place: Path, name: str, folder: str, template: str, target: str, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    checkpoint = sft(name)
    assert json.loads((checkpoint / "adapter_config.json").read_text())["target_modules"] == [target]
    assert name in str(checkpoint.parent)

    monkeypatch.chdir("/")  # the checkpoint notes where the file of names is
    adapted = loading.load_chat(flags.from_dict(infer.Config, {"ckpt_dir": str(checkpoint), "device": "cpu"}))
    assert adapted.renderer.writer.template.name == template
    adapted.engine.close()
    merged = merging.merge_checkpoint(str(checkpoint), ModelFlags())
    assert json.loads((merged / "configuration.json").read_text())["model_type"] == name

    monkeypatch.chdir(place)
    named = {"model_type": name, "registry": ["mine/my.toml"], "device": "cpu"}
    plain = loading.load_chat(flags.from_dict(infer.Config, named))
    assert plain.renderer.writer.template.name == template
    plain.engine.close()
    assert checkpoints.model_name(flags.from_dict(infer.Config, named)) == name
    capsys.readouterr()
    assert cli.main(["data", "show", "tickets", "--model", name, "--registry", "mine/my.toml", "--row", "1"]) == 0
    assert "hello" in capsys.readouterr().out
    assert cli.main(["models", name, "--registry", "mine/my.toml"]) == 0
    assert str(place / "mine" / folder) in capsys.readouterr().out


def test_a_folder_is_known_by_the_file_that_names_it(place: Path) -> None:
    assert catalog.choose(None, "mine/tiny", registry=["mine/my.toml"]).model_type == "small"
    assert catalog.choose(None, "mine/tiny") is None


def test_a_variant_has_what_its_original_has_but_not_where_it_is(place: Path) -> None:
    odd = catalog.by_name("odd", ["mine/my.toml"])
    original = catalog.by_name("qwen-7b-chat")
    assert (odd.template, odd.arch, odd.ms, odd.hf) == (original.template, original.arch, "", "")


def test_a_record_of_a_file_that_is_gone_is_missed_by_name(place: Path) -> None:
    checkpoint = sft("small")
    (place / "mine" / "my.toml").unlink()
    with pytest.raises(ValueError, match=r"model 'small' was not found|'small' is neither a folder nor a known model"):
        loading.load_chat(flags.from_dict(infer.Config, {"ckpt_dir": str(checkpoint), "device": "cpu"}))


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("[models.x]\n", "x: has no location: add ms, hf, path or adapter"),
        ('[models.x]\nhf = "a/b"\ntemplat = "qwen"\n', r"x: unknown key 'templat'; did you mean template\?"),
        ('[models.x]\nhf = "a/b"\nlora = "ALL"\n', "x: lora must be a list of strings"),
        ("[models.x]\nhf = 5\n", "x: hf must be a string"),
        (
            '[models.x]\nhf = "a/b"\nof = "qwen-7b-chta"\n',
            "no model 'qwen-7b-chta'; did you mean qwen-7b-chat",
        ),
        ('[model.x]\nhf = "a/b"\n', r"unknown table \[model\]; did you mean models\?"),
        ("models = 1\n", r"models must be tables, \[models\.NAME\]"),
        ("[models\n", "not TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_file_and_key(place: Path, toml: str, problem: str) -> None:
    Path("bad.toml").write_text(toml)
    with pytest.raises(ValueError, match=rf"^bad\.toml: .*{problem}"):
        catalog.table(["bad.toml"])


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("functions.py:broken", r"functions\.py:broken: KeyError: 'weights'"),
        ("functions.py:other", "must return a model of transformers, not int"),
        ("functions.py:modle", r"no function 'modle'; did you mean model\?"),
        ("nothing.py:model", "no such Python file"),
    ],
)
def test_what_is_wrong_with_a_function_is_told_in_one_line(place: Path, function: str, problem: str) -> None:
    Path("mine/own.toml").write_text(f'[models.x]\npath = "odd"\nmodel = "{function}"\n')
    spec = catalog.by_name("x", ["mine/own.toml"])
    with pytest.raises(ValueError, match=problem):
        load_model(location.locate("x", registry=["mine/own.toml"]), device="cpu", spec=spec)


def test_an_unknown_name_says_that_a_file_may_know_it(place: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown model_type 'small'.*--registry FILE\.toml"):
        catalog.choose("small", "mine/tiny")
    with pytest.raises(ValueError, match="did you mean small"):
        location.locate("smalll", registry=["mine/my.toml"])
    assert load_tokenizer(Path("mine/tiny")).eos_token == "<|im_end|>"
