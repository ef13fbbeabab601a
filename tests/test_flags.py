"""Flags: what a command line or a file makes of a dataclass, and what is said of wrong ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Literal

import pytest

from swift import cli, flags
from swift import flag_groups as groups
from swift.flags import flag


@dataclass(frozen=True)
class Tuner:
    """Tuner"""

    lora_rank: int = 8
    """LoRA r"""
    target_modules: tuple[str, ...] = flag(("DEFAULT",), alias=("targets",), commas=True, values={"all-linear": "ALL"})
    """Where LoRA goes"""


@dataclass(frozen=True)
class Config:
    tuner: Tuner = Tuner()
    model: str | None = flag(None, alias=("model_id_or_path",))
    """The model,
    by name or folder."""
    learning_rate: float = 1e-4
    strategy: Literal["steps", "epoch", "no"] = "steps"
    """When to save"""
    dtype: Literal["AUTO", "bf16"] | None = flag("AUTO", values={"bfloat16": "bf16"})
    stream: bool = True
    cache: bool | None = None
    names: tuple[str, ...] = ()
    layers: list[int] = flag([])
    columns: dict[str, str] = flag({"a": "b"})
    resume: str | None = flag(None, bare="newest")
    system: str | None = None
    init: str = "true"


@dataclass(frozen=True)
class Lint:
    files: tuple[str, ...] = flag(positional=True)
    """What to read"""
    as_json: bool = flag(False, alias=("json",))
    model: str = "m"


@dataclass(frozen=True)
class Longer:
    tuner: Tuner = Tuner(lora_rank=64)


@dataclass(frozen=True)
class Needs:
    key: str = flag()


@dataclass(frozen=True)
class Training:
    model: groups.ModelFlags = groups.ModelFlags()
    template: groups.TemplateFlags = groups.TemplateFlags()
    data: groups.DataFlags = groups.DataFlags()
    lora: groups.LoraFlags = groups.LoraFlags()
    train: groups.TrainFlags = groups.TrainFlags()


@dataclass(frozen=True)
class Inference:
    model: groups.ModelFlags = groups.ModelFlags()
    generation: groups.GenerationFlags = groups.GenerationFlags()
    backend: groups.BackendFlags = groups.BackendFlags()


def parse(*argv: str) -> Config:
    return flags.parse(Config, argv).config


def file(tmp_path: Path, name: str, text: str) -> str:
    (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    return str(tmp_path / name)


def test_no_flags_give_the_defaults():
    parsed = flags.parse(Config, [])
    assert parsed.config == Config()
    assert parsed.given == frozenset()


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ("--learning_rate 5e-5", "learning_rate", 5e-5),
        ("--learning_rate=-1", "learning_rate", -1.0),
        ("--learning_rate -1", "learning_rate", -1.0),
        ("--learning-rate 1", "learning_rate", 1.0),
        ("--learning_rate 1 --learning_rate 2", "learning_rate", 2.0),
        ("--model m", "model", "m"),
        ("--model none", "model", None),
        ("--model_id_or_path m", "model", "m"),
        ("--model-id-or-path=a=b", "model", "a=b"),
        ("--strategy EPOCH", "strategy", "epoch"),
        ("--dtype bfloat16", "dtype", "bf16"),
        ("--dtype none", "dtype", None),
        ("--stream false", "stream", False),
        ("--stream True", "stream", True),
        ("--cache", "cache", True),
        ("--cache none", "cache", None),
        ("--cache --stream false", "cache", True),
        ("--names 卡卡罗特 Kakarot", "names", ("卡卡罗特", "Kakarot")),
        ("--names a,b", "names", ("a,b",)),
        ("--names a --names b c", "names", ("a", "b", "c")),
        ("--layers 1 -2", "layers", [1, -2]),
        ('--columns {"q":"query"}', "columns", {"q": "query"}),
        ("--resume", "resume", "newest"),
        ("--resume out/checkpoint-5", "resume", "out/checkpoint-5"),
        ("--system=", "system", ""),
        ("--system=-v", "system", "-v"),
    ],
)
def test_a_flag_sets_its_field_and_no_other(argv, name, value):
    parsed = flags.parse(Config, argv.split())
    assert getattr(parsed.config, name) == value
    assert name in parsed.given
    others = {item.name for item in fields(Config)} - parsed.given
    assert all(getattr(parsed.config, other) == getattr(Config(), other) for other in others)


def test_a_text_may_hold_anything_that_a_shell_can_quote():
    assert parse("--system", "- be brief\n--model x").system == "- be brief\n--model x"


def test_a_group_is_flat_on_the_command_line():
    parsed = flags.parse(Config, ["--lora_rank", "4", "--targets", "all-linear,EMBEDDING"])
    assert parsed.config.tuner == Tuner(4, ("ALL", "EMBEDDING"))
    assert parsed.given == {"lora_rank", "target_modules"}


def test_a_command_may_have_other_defaults_for_a_group():
    assert flags.parse(Longer, []).config.tuner.lora_rank == 64
    assert flags.parse(Longer, ["--targets", "q"]).config.tuner == Tuner(64, ("q",))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--lora_rnk 4", "unknown flag --lora_rnk: did you mean --lora_rank?"),
        ("--lora_ran 4", "unknown flag --lora_ran: did you mean --lora_rank?"),
        ("--zzzzzz", "unknown flag --zzzzzz"),
        ("--lora_rnk -1 --modl x", "unknown flag --lora_rnk: .*lora_rank.; unknown flag --modl: .*--model"),
        ("-m x", "unknown flag -m"),
        ("--lora_rank x", "--lora_rank: 'x' is not a whole number"),
        ("--lora_rank 1.5", "--lora_rank: '1.5' is not a whole number"),
        ("--lora_rank", "--lora_rank: expected one argument"),
        ("--targets", "--targets: expected at least one argument"),
        ("--learning_rate fast", "--learning_rate: 'fast' is not a number"),
        ("--learning_rate nan", "--learning_rate: 'nan' is not a number"),
        ("--strategy step", "--strategy: 'step' is not one of steps, epoch, no: did you mean steps"),
        ("--dtype bf17", "--dtype: 'bf17' is not one of AUTO, bf16: did you mean bf16"),
        ("--stream maybe", "--stream: 'maybe' is not true or false"),
        ("--layers 1 b", "--layers: 'b' is not a whole number"),
        ("--columns {", "--columns: '{' is not a JSON object"),
        ("--columns [1]", "--columns: .* is not a JSON object"),
        ('--columns {"a":"x","a":"y"}', "a is given twice"),
        ("word", "unexpected argument 'word'"),
        ("--model a b", "unexpected argument 'b'"),
    ],
)
def test_a_wrong_word_is_named_with_what_would_be_right(argv, message):
    with pytest.raises(ValueError, match=message):
        parse(*argv.split())


def test_a_missing_required_flag_is_an_error():
    with pytest.raises(ValueError, match="--key must be given"):
        flags.parse(Needs, [])
    with pytest.raises(ValueError, match="FILES must be given"):
        flags.parse(Lint, ["--model", "x"])
    with pytest.raises(ValueError, match=r"args\.json: key must be given"):
        flags.from_dict(Needs, {}, "args.json")


def test_unknown_flags_are_a_warning_for_who_wants_that(capsys):
    assert parse("--lora_rnk", "4", "--lora_rank", "2", "--ignore_args_error", "true").tuner.lora_rank == 2
    assert "ignored: unknown flag --lora_rnk: did you mean --lora_rank?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    ["a b --json --model x", "--json a b --model x", "--model x a --json b", "--model x --json true a b"],
)
def test_words_without_a_flag_are_the_positional_field_wherever_they_stand(argv):
    assert flags.parse(Lint, argv.split()).config == Lint(files=("a", "b"), as_json=True, model="x")


def test_a_json_file_is_data_to_a_command_that_takes_files():
    assert flags.parse(Lint, ["rows.json"]).config.files == ("rows.json",)


def test_an_unknown_flag_is_no_file():
    with pytest.raises(ValueError, match="unknown flag --jsn: did you mean --json"):
        flags.parse(Lint, ["a", "--jsn"])


# Files of flags

YAML = """
model_id_or_path: qwen
lora-rank: 4
targets: q,k
learning_rate: 5e-5
strategy: no
stream: off
names: [卡卡罗特, Kakarot]
layers: 3
columns: {q: query}
system:
init: false
"""


def test_a_yaml_file_holds_flags_aliases_and_lists(tmp_path):
    path = file(tmp_path, "run.yaml", YAML)
    parsed = flags.parse(Config, [path])
    assert parsed.config == Config(
        tuner=Tuner(4, ("q", "k")), model="qwen", learning_rate=5e-5, strategy="no", stream=False,
        names=("卡卡罗特", "Kakarot"), layers=[3], columns={"q": "query"}, init="false",
    )  # fmt: skip
    assert {"model", "lora_rank", "stream"} <= parsed.given
    assert flags.parse(Config, ["--config", path]) == parsed


def test_the_command_line_beats_the_file_and_a_later_file_an_earlier_one(tmp_path):
    first = file(tmp_path, "a.json", '{"lora_rank": 1, "names": ["a"], "model": "m", "init": "x"}')
    second = file(tmp_path, "b.yml", "lora_rank: 2\nmodel: n")
    parsed = parse("--lora_rank", "3", "--config", first, second)
    assert (parsed.tuner.lora_rank, parsed.names, parsed.model, parsed.init) == (3, ("a",), "n", "x")


def test_an_empty_yaml_file_sets_nothing(tmp_path):
    assert parse(file(tmp_path, "empty.yaml", "# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "lora_rnk: 4", r"a\.yaml: unknown flag lora_rnk: did you mean lora_rank\?"),
        ("a.json", '{"lora_rank": "x"}', r"a\.json: lora_rank: 'x' is not a whole number"),
        ("a.json", '{"lora_rank": [1]}', r"a\.json: lora_rank: \[1\] is not a whole number"),
        ("a.json", '{"lora_rank": true}', "lora_rank: True is not a whole number"),
        ("a.json", '{"lora_rank": null}', "lora_rank: None is not a whole number"),
        ("a.json", '{"stream": 2}', "stream: 2 is not true or false"),
        ("a.json", '{"names": {"a": 1}}', "names: .* is not text"),
        ("a.yaml", "strategy: on", "strategy: True is not one of steps, epoch, no"),
        ("a.json", '{"model": "a", "model_id_or_path": "b"}', "model_id_or_path is given twice"),
        ("a.json", '{"model": "a", "model": "b"}', r"a\.json: model is given twice"),
        ("a.yaml", "model: a\nmodel: b", r"a\.yaml: model is given twice"),
        ("a.json", '{\n"model": }', r"a\.json: line 2: "),
        ("a.yaml", "model: a\n  b: [", r"a\.yaml: line 2: "),
        ("a.yaml", "\x07", r"a\.yaml: .*not allowed"),
        ("a.yaml", "a: 1\nmodel: \udcc4", r"a\.yaml: 'utf-8' codec can't decode byte 0xc4 in line 2: save the file as"),
        ("a.yaml", 'model: "\\ud800"', r"a\.yaml: model: '.ud800' has a lone surrogate"),
        ("a.json", '{"columns": {"\\ud800": "q"}}', r"a\.json: columns: '.ud800' has a lone surrogate"),
        ("a.json", "[]", r"a\.json: must be one mapping"),
        ("a.yaml", "just text", r"a\.yaml: must be one mapping"),
        ("a.yaml", "1: x", r"a\.yaml: must be one mapping"),
        ("a.toml", "", r"a\.toml: a file with flags ends in \.yaml, \.yml, \.json"),
    ],
)
def test_errors_of_a_file_with_flags_name_the_file(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        parse("--config", file(tmp_path, name, text))


def test_a_file_of_flags_must_be_there_and_be_text(tmp_path):
    with pytest.raises(FileNotFoundError):
        parse(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.json: 'utf-8' codec"):
        parse(str(tmp_path / "binary.json"))


# Dicts


def test_a_config_survives_json():
    config = parse(
        "--lora_rank", "2", "--layers", "1", "--columns", "{}", "--dtype", "none", "--cache", "--names", "a", "b"
    )
    saved = json.loads(json.dumps(flags.to_dict(config)))
    assert saved["lora_rank"] == 2 and saved["target_modules"] == ["DEFAULT"] and "tuner" not in saved
    assert flags.from_dict(Config, saved) == config


def test_update_changes_only_the_given_flags():
    config = parse("--lora_rank", "2", "--model", "m")
    changed = flags.update(config, {"targets": ["q"], "model": "n"}, "sft_args.json")
    assert flags.to_dict(changed) == flags.to_dict(config) | {"target_modules": ["q"], "model": "n"}
    with pytest.raises(ValueError, match=r"sft_args\.json: unknown flag nodel: did you mean model"):
        flags.update(config, {"nodel": "n"}, "sft_args.json")


# Help


def test_help_names_every_flag_with_type_meaning_alias_and_default(capsys):
    with pytest.raises(SystemExit) as exit_:
        flags.parse(Config, ["--lora_rank", "x", "--help"], prog="swift fake")
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    squeezed = [" ".join(line.split()) for line in out.splitlines()]
    assert squeezed[0] == "usage: swift fake [--flag value ...]"
    assert squeezed.index("flags:") < squeezed.index("Tuner:") < squeezed.index("Every command:")
    assert "--lora_rank INT LoRA r (default 8)" in squeezed
    assert "--target_modules TEXT ... Where LoRA goes [also --targets] (default DEFAULT)" in squeezed
    assert "--model TEXT The model, by name or folder [also --model_id_or_path] (default none)" in squeezed
    assert "--strategy steps|epoch|no When to save (default steps)" in squeezed
    assert "--stream true|false (default true)" in squeezed
    assert '--columns JSON (default {"a": "b"})' in squeezed
    assert all(f"--{name} " in out for name in flags.names(Config))


def test_help_shows_positional_words_and_what_is_required(capsys):
    with pytest.raises(SystemExit):
        flags.parse(Lint, ["-h"], prog="swift lint")
    out = capsys.readouterr().out
    assert out.startswith("usage: swift lint FILES... [--flag value ...]\n")
    assert "What to read (required)" in out


def test_help_fits_the_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, flags.help_text(Config, "swift sft").splitlines())) <= 70


MANY = make_dataclass(
    "Many",
    [("file", str, flag(positional=True)), *((f"flag_{n}", int, n) for n in range(30)), ("tuner", Tuner, Tuner())],
    namespace={"most_used": ("lora_rank", "flag_7"), "__module__": __name__},
    frozen=True,
)
"""More flags than `--help` shows at once."""


def helped(capsys: pytest.CaptureFixture[str], config: type, *argv: str) -> list[str]:
    with pytest.raises(SystemExit) as exit_:
        flags.parse(config, argv, prog="swift fake")
    assert exit_.value.code == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_the_help_of_many_flags_shows_the_most_used_and_names_the_others(capsys):
    lines = helped(capsys, MANY, "--help")
    at = lines.index("most used:")
    assert lines[at + 1 : at + 4] == [
        "FILE (required)",
        "--lora_rank INT LoRA r (default 8)",
        "--flag_7 INT (default 7)",
    ]
    assert any(line.startswith("flags: file, flag_0, flag_1, ") for line in lines)
    assert "Tuner: lora_rank, target_modules" in lines
    assert "--flag_8 INT (default 8)" not in lines
    assert lines[-1].endswith("--help-all shows every flag")


@pytest.mark.parametrize("all_of_them", ["--help-all", "--help_all"])
def test_all_flags_are_shown_when_asked_for(capsys, all_of_them):
    lines = helped(capsys, MANY, "--flag_2", "x", all_of_them)
    assert "--flag_8 INT (default 8)" in lines and "most used:" not in lines


def test_the_help_of_few_flags_shows_all(capsys):
    assert helped(capsys, Config, "--help") == helped(capsys, Config, "--help-all")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("tuner", {"Tuner:", "lora_rank", "target_modules"}),  # a section
        ("RANK", {"Tuner:", "lora_rank"}),  # a part of a name
        ("targets", {"Tuner:", "target_modules"}),  # an alias
        ("goes", {"Tuner:", "target_modules"}),  # a word of a meaning
        ("epoch", {"flags:", "strategy"}),  # a choice
        ("lora rank", {"Tuner:", "lora_rank"}),  # both words
    ],
)
def test_help_about_words_shows_their_flags(capsys, words, found):
    lines = helped(capsys, Config, "--help", *words.split())
    assert {line if line.endswith(":") else line.split()[0].strip("-") for line in lines if line} == found


def test_help_about_an_unknown_word_names_the_nearest():
    with pytest.raises(ValueError, match=r"no flag of swift fake is about rnak: did you mean rank\?"):
        flags.parse(Config, ["--help", "rnak"], prog="swift fake")


def test_the_most_used_flags_of_a_command_are_at_most_ten_of_its_flags():
    for verb in cli.verbs():
        for words, config in cli.configs(verb).items():
            named = vars(config).get("most_used", ())
            assert named or len(flags.names(config)) <= 25, words
            assert set(named) <= flags.names(config) and len(set(named)) == len(named) <= 10, words


# The groups that the commands share

TUTORIAL = """
--model_id_or_path qwen/Qwen-7B-Chat --model_revision master --sft_type lora --tuner_backend swift --dtype AUTO
--output_dir output --dataset ms-agent --train_dataset_mix_ratio 2.0 --train_dataset_sample -1 --num_train_epochs 2
--max_length 2048 --check_dataset_strategy warning --lora_rank 8 --lora_alpha 32 --lora_dropout_p 0.05
--lora_target_modules ALL --self_cognition_sample 3000 --model_name 卡卡罗特 --model_author 陶白白
--gradient_checkpointing true --batch_size 2 --weight_decay 0.01 --learning_rate 5e-5 --gradient_accumulation_steps 4
--max_grad_norm 0.5 --warmup_ratio 0.03 --eval_steps 100 --save_steps 100 --save_total_limit 2 --logging_steps 10
"""
MODERN = """
--model qwen/Qwen-7B-Chat --model_revision master --tuner_type lora --tuner_backend swift --torch_dtype AUTO
--output_dir output --dataset ms-agent --train_dataset_mix_ratio 2.0 --train_dataset_sample -1 --num_train_epochs 2
--max_length 2048 --check_dataset_strategy warning --lora_rank 8 --lora_alpha 32 --lora_dropout 0.05
--target_modules all-linear --self_cognition_sample 3000 --model_name 卡卡罗特 --model_author 陶白白
--gradient_checkpointing --per_device_train_batch_size 2 --weight_decay 0.01 --learning_rate 5e-5
--gradient_accumulation_steps 4 --max_grad_norm 0.5 --warmup_ratio 0.03 --eval_steps 100 --save_steps 100
--save_total_limit 2 --logging_steps 10
"""


def test_the_tutorials_training_flags_mean_the_same_under_their_modern_names():
    parsed = flags.parse(Training, TUTORIAL.split())
    assert parsed.config.train.batch_size == 2 and parsed.config.train.optimizer.learning_rate == 5e-5
    assert parsed.config.data.dataset == ("ms-agent",) and parsed.config.data.model_name == ("卡卡罗特",)
    assert parsed.config.lora.lora_target_modules == ("ALL",)
    assert len(parsed.given) == TUTORIAL.count("--")
    assert flags.parse(Training, MODERN.split()) == parsed


def test_the_tutorials_inference_flags_are_known():
    argv = ["--model_type", "chatglm3-6b-32k", "--stop_words", "Observation:", "--infer_backend", "pt"]
    config = flags.parse(Inference, argv).config
    assert config.generation.stop_words == ("Observation:",)
    assert config.backend.infer_backend == "pt"
    assert flags.parse(Inference, ["--infer_backend", "transformers"]).config.backend.infer_backend == "pt"


@pytest.mark.parametrize("config", [Training, Inference])
def test_every_shared_flag_has_a_meaning_and_a_name_of_its_own(config):
    spoken = [name for item in flags.walk(config) for name in (item.name, *item.spec.alias)]
    assert len(spoken) == len(set(spoken))
    for line in flags.help_text(config, "swift").splitlines():
        if line.startswith("  --"):
            assert not line.split("  ", 2)[2].strip().startswith("("), f"no docstring: {line}"


@pytest.mark.parametrize(
    ("argv", "scale"),
    [
        ("", "AUTO"),
        ("--use_loss_scale true", "AUTO"),
        ("--use_loss_scale false", "default"),
        ("--use_loss_scale true --loss_scale hermes", "hermes"),
        ("--loss_scale last_round+react", "last_round+react"),
        ("--loss_scale none --use_loss_scale false", "none"),
    ],
)
def test_the_older_switch_chooses_a_loss_scale(argv, scale):
    assert flags.parse(Training, argv.split()).config.template.scale == scale


@pytest.mark.parametrize(
    "argv", ["--use_loss_scale false --loss_scale hermes", "--use_loss_scale true --loss_scale default"]
)
def test_switches_that_contradict_each_other_are_refused(argv):
    with pytest.raises(ValueError, match="contradicts --loss_scale"):
        flags.parse(Training, argv.split())


def test_a_length_of_nothing_is_refused():
    with pytest.raises(ValueError, match="--max_length: 0 is not a length"):
        flags.parse(Training, ["--max_length", "0"])


def test_no_section_of_any_help_has_more_than_twenty_flags():
    configs = [config for verb in cli.verbs() for config in cli.configs(verb).values()]
    assert len(configs) > 10
    for config in configs:
        sections = flags.help_text(config, "swift").split("\n\n")[1:]
        assert max(section.count("\n  --") for section in sections) <= 20, config
