"""Models that are an adapter on another: packed by `swift export`, known by name, used like any model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_model_folder
from transformers import AutoModelForCausalLM

import swift
from swift import cli
from swift.chat import Message
from swift.infer.calibration_file import write_calibration
from swift.infer.confidence import Calibration
from swift.infer.local_chat import LocalChat
from swift.model import adapter_models, catalog, location

ROWS = [
    {"query": "hi", "response": "hello"},
    {
        "messages": [
            {"role": "user", "content": "Is it raining in Oslo?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
            },
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    },
]
NAMES = """
[models.tiny-base]
path = "base"
template = "chatml"

[models.tiny-agent]
of = "tiny-base"
adapter = "agent"
"""
FEW = ["--max_steps", "1", "--dataset_test_ratio", "0", "--report_to", "none", "--device", "cpu"]
LORA = [
    "--lora_target_modules",
    "ALL",
    "--lora_rank",
    "4",
    "--learning_rate",
    "0.05",
    "--init_lora_weights",
    "gaussian",
]


def run(*words: str | Path) -> int:
    return cli.main(list(map(str, words)))


def train(model: str, into: str, *more: str) -> Path:
    """The checkpoint of one step."""
    where = ["--dataset", "rows.jsonl", "--registry", "names.toml", "--output_dir", into]
    assert run("sft", "--model", model, *where, *FEW, *LORA, *more) == 0
    return next(Path(into).rglob("checkpoint-1"))


def grow(adapter: Path) -> None:
    """Gives the adapter weights that change what the model computes."""
    torch.manual_seed(3)
    file = adapter / "adapter_model.safetensors"
    save_file({name: torch.randn_like(each) * 0.1 for name, each in load_file(file).items()}, file, {"format": "pt"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, the checkpoint `ckpt` of an adapter, and the same packed, which has a name."""
    folder = tmp_path_factory.mktemp("named")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tiny_model_folder(Path("base"))
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS * 4))
        Path("names.toml").write_text(NAMES)
        record = ["--agent_template", "hermes", "--system", "Be brief."]
        shutil.move(train("tiny-base", "first", *record), "ckpt")
        grow(Path("ckpt"))
        write_calibration(Path("ckpt"), Calibration(1.5), 100, (0.2, 0.1), "tests")
        assert run("export", "--ckpt_dir", "ckpt", "--pack_adapter", "true", "--output_dir", "agent") == 0
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, which is the current one, and an empty cache."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    return tmp_path / "place"


def located() -> Path:
    return location.locate("tiny-agent", registry=["names.toml"])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([[5, 60, 7, 100, 258]])).logits
    return found


def chat(**named: Any) -> LocalChat:
    return swift.load_chat(registry=["names.toml"], device="cpu", **named)


class TestAPackedAdapter:
    def test_is_small_and_keeps_what_loading_reads(self, place: Path) -> None:
        files = {"adapter_model.safetensors", "adapter_config.json", "sft_args.json", "calibration.json", "README.md"}
        assert {file.name for file in Path("agent").iterdir()} == files
        weights, trained = (load_file(f"{folder}/adapter_model.safetensors") for folder in ("agent", "ckpt"))
        assert {each.dtype for each in weights.values()} == {torch.bfloat16}
        assert all(torch.equal(weights[name], each.bfloat16()) for name, each in trained.items())
        record = json.loads(Path("agent/sft_args.json").read_text())
        assert (record["agent_template"], record["system"]) == ("hermes", "Be brief.")
        assert "rows.jsonl" not in Path("agent/sft_args.json").read_text() and "dataset" not in record

    def test_has_a_card_with_the_story_of_its_training(self, place: Path) -> None:
        card = Path("agent/README.md").read_text()
        assert card.index("## Training data") < card.index("## Results") < card.index("## How to use it")
        assert "base_model: tiny-base" in card and "| rows.jsonl | 8 |" in card

    def test_is_a_checkpoint_like_the_original(self, place: Path) -> None:
        with_engine = swift.load_chat("agent", device="cpu")
        assert with_engine.renderer.tool_format.__name__.endswith("hermes")
        with_engine.engine.close()

    @pytest.mark.parametrize(
        ("words", "problem"),
        [
            (["--ckpt_dir", "base"], "a full model, with no adapter to pack"),
            (["--ckpt_dir", "ckpt", "--output_dir", "agent"], "agent exists: remove it"),
            (["--ckpt_dir", "ckpt", "--dtype", "fp32"], "--dtype has no effect on --pack_adapter"),
            (["--ckpt_dir", "ckpt", "--to_gguf", "F16"], "--pack_adapter and --to_gguf exclude each other"),
            (["--model", "tiny-agent"], "--pack_adapter true needs --ckpt_dir"),
        ],
    )
    def test_wrong_flags_get_one_line(
        self, place: Path, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("export", "--pack_adapter", "true", *words) == 2
        assert problem in capsys.readouterr().err

    def test_of_swift_itself_has_a_limit_of_size(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(adapter_models, "PACKAGED", place / "agents")
        monkeypatch.setattr("swift.assembly.adapter_package.MOST", 1000)
        flags = ["--pack_adapter", "true", "--output_dir", "agents/one"]
        assert run("export", "--ckpt_dir", "ckpt", *flags) == 2
        assert "an adapter of SWIFT has at most" in capsys.readouterr().err
        assert not Path("agents/one").exists()


class TestANamedAdapter:
    def test_computes_what_its_base_with_the_adapter_computes(self, place: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained("base")
        before = logits(base)
        expected = logits(PeftModel.from_pretrained(base, "agent"))
        found = logits(AutoModelForCausalLM.from_pretrained(located()))
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(found, before, atol=1e-2)

    def test_rounds_each_weight_once_to_the_dtype_of_its_base(self, place: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained("base").bfloat16()
        base.save_pretrained("base")
        whole = PeftModel.from_pretrained(base.float(), "agent").merge_and_unload()
        found = load_file(located() / "model.safetensors")
        name = "model.layers.0.mlp.down_proj.weight"
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], whole.state_dict()[name].bfloat16())

    def test_is_merged_once(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = located()
        assert "merging tiny-agent into base" in capsys.readouterr().err
        assert located() == folder
        assert capsys.readouterr().err == ""

    def test_is_merged_again_where_a_file_is_damaged(self, place: Path) -> None:
        folder = located()
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:100])
        assert located() == folder
        assert (folder / "model.safetensors").read_bytes() == whole

    def test_has_the_settings_and_the_calibration_of_its_training(self, place: Path) -> None:
        found = chat(model="tiny-agent")
        assert found.renderer.tool_format.__name__.endswith("hermes")
        assert "Be brief." in found.renderer.decode(found.renderer.prompt([Message("user", "hi")]).tokens)
        assert found.calibrations[""].temperature == 1.5
        found.engine.close()
        plain = chat(model="tiny-base")
        assert not plain.renderer.tool_format.__name__.endswith("hermes")
        plain.engine.close()

    def test_takes_flags_before_the_settings_of_its_training(self, place: Path) -> None:
        found = chat(model="tiny-agent", agent_template="react_en", system="")
        assert found.renderer.tool_format.__name__.endswith("react_en")
        found.engine.close()
        found = chat(model="tiny-agent", load_args_from_ckpt_dir=False)
        assert not found.renderer.tool_format.__name__.endswith("hermes")
        found.engine.close()

    def test_takes_a_new_calibration_and_keeps_one_of_the_user(self, place: Path) -> None:
        folder = located()
        write_calibration(folder, Calibration(2.0), 100, (0.2, 0.1), "mine")
        located()
        assert json.loads((folder / "calibration.json").read_text())["temperature"] == 2.0
        write_calibration(Path("agent"), Calibration(3.0), 100, (0.2, 0.1), "newer")
        assert located() == folder
        assert json.loads((folder / "calibration.json").read_text())["temperature"] == 3.0

    def test_is_trained_further_under_its_name(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        checkpoint = train("tiny-agent", "second")
        record = json.loads((checkpoint / "sft_args.json").read_text())
        assert (record["model_type"], record["agent_template"], record["system"]) == (
            "tiny-agent",
            "hermes",
            "Be brief.",
        )
        grow(checkpoint)
        expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(located()), checkpoint))
        found = swift.load_chat(checkpoint, device="cpu")
        assert found.renderer.tool_format.__name__.endswith("hermes")
        found.engine.close()
        assert run("merge-lora", "--ckpt_dir", checkpoint, "--device", "cpu") == 0
        merged = AutoModelForCausalLM.from_pretrained(f"{checkpoint}-merged", dtype=torch.float32)
        assert torch.allclose(logits(merged), expected, atol=1e-4)
        assert "replies may be worse" not in capsys.readouterr().err

        shutil.rmtree(f"{checkpoint}-merged")
        grow(Path("agent"))  # another adapter under the same name
        assert run("merge-lora", "--ckpt_dir", checkpoint, "--device", "cpu") == 0
        assert "and tiny-agent is now tiny-agent-" in capsys.readouterr().err

    def test_is_shown_as_it_is_trained(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("data", "show", "rows.jsonl", "--model", "tiny-agent", "--registry", "names.toml") == 0
        assert "<tool_call>" in capsys.readouterr().out

    def test_is_exported_by_its_name(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        names = ["--model", "tiny-agent", "--registry", "names.toml", "--device", "cpu"]
        assert run("export", *names, "--merge_lora", "true", "--output_dir", "whole") == 0
        assert not Path("whole/files.json").exists()
        whole = AutoModelForCausalLM.from_pretrained("whole")
        assert torch.equal(logits(whole), logits(AutoModelForCausalLM.from_pretrained(located())))
        assert run("export", *names, "--merge_lora", "true", "--output_dir", "whole") == 2  # never replaced
        assert run("merge-lora", *names, "--dtype", "fp32", "--output_dir", "other") == 2
        assert "--dtype fp32 has no effect on merging without --ckpt_dir" in capsys.readouterr().err

    def test_is_exported_with_the_settings_of_its_training(self, place: Path) -> None:
        from swift import flags
        from swift.commands import export

        config = flags.from_dict(export.Config, {"model": "tiny-agent", "registry": ["names.toml"], "to_gguf": "F16"})
        template = export.choose(config).template
        assert (template.agent_template, template.system) == ("hermes", "Be brief.")

    def test_is_evaluated_again_when_it_is_another(self, place: Path) -> None:
        from swift import flags
        from swift.assembly.eval_targets import target_of
        from swift.commands import eval as command

        named = {"model": "tiny-agent", "registry": ["names.toml"], "device": "cpu"}
        config = flags.from_dict(command.Config, named)
        before = target_of(config, frozenset(named)).folder
        assert target_of(config, frozenset(named)).folder == before
        grow(Path("agent"))
        assert target_of(config, frozenset(named)).folder != before

    def test_is_listed_with_its_base_size_and_card(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("models", "tiny-agent", "--registry", "names.toml") == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny-agent"))
        assert "merges into tiny-base; 0.0 MB; card: " in line and str(place / "agent" / "README.md") in line
        assert run("models", "tiny-agent", "--registry", "names.toml", "--json") == 0
        [row] = json.loads(capsys.readouterr().out)
        assert row["base"] == "tiny-base"
        assert row["adapter_bytes"] == Path("agent/adapter_model.safetensors").stat().st_size


def edit(file: str, **changes: object) -> None:
    content = json.loads(Path(file).read_text())
    Path(file).write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (
            lambda: Path("agent/adapter_model.safetensors").unlink(),
            r"adapter on tiny-base, and .*\.safetensors is miss",
        ),
        (lambda: Path("agent/adapter_model.safetensors").write_bytes(b"0" * 40), "half-written or damaged"),
        (lambda: Path("agent/adapter_config.json").write_text("{"), r"adapter_config\.json: half-written or damaged"),
        (lambda: edit("agent/adapter_config.json", peft_type="VERA"), "an adapter of type VERA"),
        (lambda: edit("agent/adapter_config.json", modules_to_save=["lm_head"]), "an adapter with modules_to_save"),
        (lambda: edit("agent/adapter_config.json", r=8), "the adapter does not fit this model"),
        (lambda: edit("agent/adapter_config.json", target_modules=["q_proj"]), "the adapter does not fit this model"),
        (lambda: edit("agent/sft_args.json", model_type="qwen-7b"), "trained on qwen-7b, not on tiny-base"),
        (lambda: shutil.rmtree("base"), "base: no such folder"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_told_in_one_line(
    place: Path, break_it: Any, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it()
    with pytest.raises(ValueError, match=problem):
        located()
    assert run("infer", "--model", "tiny-agent", "--registry", "names.toml", "--device", "cpu") == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("swift: error: ")]) == 1
    assert not list((place.parent / "cache" / "models").glob("*"))


def test_an_adapter_of_the_head_is_refused(place: Path) -> None:
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained("base"), LoraConfig(target_modules=["lm_head"]))
    shutil.rmtree("agent")
    tuned.save_pretrained("agent")
    with pytest.raises(ValueError, match=r"agent: it adapts the embeddings or the head.*use --ckpt_dir"):
        located()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('adapter = "agent"', "adapter needs of, the model that it is for"),
        ('of = "qwen-7b"\nadapter = "agent"\nhf = "a/b"', "hf has no effect beside adapter"),
        ('of = "later"\nadapter = "agent"', "there is no model 'later'"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_name(place: Path, row: str, problem: str) -> None:
    Path("bad.toml").write_text(f"[models.x]\n{row}\n")
    with pytest.raises(ValueError, match=rf"^bad\.toml: x: .*{problem}"):
        catalog.table(["bad.toml"])


# The adapter that SWIFT brings

AGENT = "smollm2-135m-agent"
FOLDER = Path(catalog.table()[AGENT].adapter)
HOUSE = Path(__file__).parents[1] / "examples" / "agent" / "house_tools.py"


def test_the_agent_is_an_adapter_on_the_bundled_model() -> None:
    spec = catalog.table()[AGENT]
    assert spec.base == "smollm2-135m-instruct" and adapter_models.is_packaged(spec)


present = pytest.mark.skipif(not (FOLDER / "adapter_model.safetensors").is_file(), reason="the adapter is not here")


@present
def test_the_agent_is_small_and_whole() -> None:
    files = {file.name for file in FOLDER.iterdir()}
    assert files - {"calibration.json"} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "sft_args.json",
        "README.md",
    }
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 12_100_000
    adapter_models.check(catalog.table()[AGENT])
    recorded = json.loads((FOLDER / "sft_args.json").read_text()).values()
    assert not [each for each in recorded if isinstance(each, str) and each.startswith("/")]


@present
def test_the_agent_has_no_revisions() -> None:
    with pytest.raises(ValueError, match="has no revisions: leave --model_revision v2 out"):
        location.locate(AGENT, revision="v2")


@present
@pytest.mark.model
def test_the_agent_calls_a_tool_and_answers() -> None:
    agent = swift.load_chat(model=AGENT)
    try:
        question = "Turn on the lamp in the kitchen, please."
        trace = swift.run_agent(agent, question, [HOUSE], temperature=0.0, max_new_tokens=128)
        [call] = trace.messages[1].tool_calls
        assert call.name == "switch_lamp"
        assert json.loads(call.arguments) == {"room": "kitchen", "on": True}
        assert json.loads(trace.messages[2].content)["kitchen"] is True
        assert trace.answer
    finally:
        agent.engine.close()


QUESTIONS = Path(__file__).with_name("agent_questions.json")
"""Four tools, and questions that say every value; for a quarter of them no tool fits."""
RIGHT = 13
"""Of 16 questions, unguided; the base model has 4 right, where no call is. Kernels may differ in one or two."""


@present
@pytest.mark.model
def test_the_agent_is_not_worse_than_it_was(tmp_path: Path) -> None:
    asked = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    rows = [
        {
            "messages": [{"role": "user", "content": each["question"]}],
            "tools": asked["tools"],
            "expected": each["calls"],
        }
        for each in asked["questions"]
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    where = ["--dataset", tmp_path / "rows.jsonl", "--report", tmp_path / "report", "--device", "cpu"]
    assert run("eval", "--model", AGENT, "--tasks", "calls", *where) == 0
    lines = (tmp_path / "report" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert len(answers) == 16
    wrong = [f"{each['asked']} {each['failure']}: {each['detail']}" for each in answers if not each["correct"]]
    assert len(answers) - len(wrong) >= RIGHT, wrong
