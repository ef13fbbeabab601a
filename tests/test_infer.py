"""`swift infer` through its front door, with tiny random models: what is loaded, asked, shown and saved."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from test_repl import OBSERVED, QUESTION, SYSTEM_LINE, SYSTEM_LINES
from tiny import tiny_model_folder

from swift import cli
from swift.agent import tool_format
from swift.assembly.checkpoints import choose, model_name
from swift.assembly.loading import load_chat, sampling
from swift.chat import Conversation, Delta, Message, ToolCall, Usage
from swift.commands import infer
from swift.engine.cpu import native_runner
from swift.engine.cpu.native_runner import NativeRunner
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags
from swift.infer.chat import collect
from swift.infer.local_chat import LocalChat
from swift.infer.repl import RULE
from swift.model.load import load_model
from swift.tuner import adapter_files, lora

ASK = (Message("user", "Rain?"),)
GREEDY = SamplingParams(max_tokens=12, temperature=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.2)


@pytest.fixture
def adapter(base, tmp_path):
    """A LoRA checkpoint whose adapter changes every reply, with the record that training leaves."""
    torch.manual_seed(3)
    tuned = lora.attach(load_model(base, "fp32", "cpu"), lora.LoraOptions(targets=("ALL",), rank=4))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path / "run" / "checkpoint-7"
    adapter_files.save(tuned, folder)
    write_record(folder, model_id_or_path=str(base), sft_type="lora")
    return folder


def write_record(folder, **more):
    record = {"template_type": "qwen", "system": "Be kind.", "agent_template": "hermes", "loss_scale": "react", **more}
    (folder / "sft_args.json").write_text(json.dumps(record))


@pytest.fixture
def swift(monkeypatch, tmp_path, capsys):
    """Runs `swift infer` with `typed` piped in; gives its exit code and what it wrote. Results land in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(*words, typed=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = cli.main(["infer", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def config(model=None, ckpt_dir=None, **template):
    return infer.Config(
        model=ModelFlags(model_id_or_path=model and str(model), dtype="fp32", device="cpu"),
        backend=BackendFlags(ckpt_dir=ckpt_dir and str(ckpt_dir)),
        template=TemplateFlags(**template),
    )


def greedy(chat):
    reply = collect(chat(ASK, (), GREEDY)).message.content
    chat.engine.close()
    return reply


def rows_of(folder):
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# Talking


def test_the_tutorials_typing_reaches_a_model_and_is_saved(swift, base, tmp_path):
    code, out, err = swift(
        *("--model_id_or_path", base, "--template_type", "qwen", "--eval_human", "true"),
        *("--stop_words", "Observation:", "--infer_backend", "pt", "--max_new_tokens", 6),
        typed="\n".join(["reset-system", SYSTEM_LINE, QUESTION, OBSERVED, "exit", ""]),
    )
    assert code == 0
    assert out.startswith(f"<<< reset-system\n<<<[S] {SYSTEM_LINE}\n<<< {QUESTION}\n")
    assert out.count(RULE) == 2
    first, second = rows_of(tmp_path / "output" / "infer_result")
    assert (first["system"], first["query"], second["query"]) == (SYSTEM_LINES, QUESTION, OBSERVED)
    assert second["history"] == [[QUESTION, first["response"]]]
    assert "infer_result" in err


def test_the_tutorials_command_runs_as_printed(swift, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    tiny_model_folder(tmp_path / "cache" / "hub" / "ZhipuAI" / "chatglm3-6b-32k", max_position_embeddings=4096)
    command = "--model_type chatglm3-6b-32k --eval_human true --stop_words Observation: --infer_backend pt"
    typed = f"multi-line#\nreset-system#\n{SYSTEM_LINES}#\nexit#\n"
    code, out, _ = swift(*command.split(), typed=typed)
    assert (code, out) == (
        0,
        f"<<< multi-line#\n<<<[M] reset-system#\n<<<[MS] {SYSTEM_LINES}#\n<<<[M] exit#\n",
    )


def test_streamed_or_not_the_dialogue_is_the_same(swift, base):
    flags = ("--model", base, "--template_type", "qwen", "--max_new_tokens", 6, "--save_result", "false")
    streamed = swift(*flags, typed="hello\nagain\n")
    assert streamed == swift(*flags, "--stream", "false", typed="hello\nagain\n")
    assert streamed[0] == 0


def test_without_save_result_no_file_appears(swift, base, tmp_path):
    swift("--model", base, "--template_type", "qwen", "--max_new_tokens", 2, "--save_result", "false", typed="hello\n")
    assert list(tmp_path.iterdir()) == []


def test_results_lie_outside_the_checkpoint_which_each_record_names(swift, adapter, tmp_path, rows):
    before = sorted(adapter.iterdir())
    assert swift("--ckpt_dir", adapter, "--max_new_tokens", 2, typed="hello\n")[0] == 0
    assert sorted(adapter.iterdir()) == before
    (said,) = rows_of(tmp_path / "output" / "infer_result")
    assert (said["query"], said["ckpt_dir"]) == ("hello", str(adapter))
    flags = ("--val_dataset", rows, "--show_dataset_sample", 1, "--max_new_tokens", 2, "--result_dir", tmp_path / "own")
    assert swift("--ckpt_dir", adapter, *flags)[0] == 0
    (answered,) = rows_of(tmp_path / "own")
    assert answered["ckpt_dir"] == str(adapter)
    assert sorted(adapter.iterdir()) == before


def test_runs_that_begin_in_the_same_second_write_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for query in "ab":
        infer.Results(infer.Config()).add({"query": query})
    files = sorted((tmp_path / "output" / "infer_result").iterdir())
    assert sorted(json.loads(file.read_text())["query"] for file in files) == ["a", "b"]


def test_results_are_rows_to_train_on_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = infer.Results(infer.Config(backend=BackendFlags(ckpt_dir=str(tmp_path))))
    results.add({"system": "s", "query": "q", "response": "r", "history": []})
    assert cli.main(["data", "lint", str(results.written)]) == 0


LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def test_tools_that_a_file_describes_are_offered_to_the_model(swift, base, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps({"tools": [LOOK]}))
    flags = ("--model", base, "--template_type", "qwen", "--max_new_tokens", 2, "--tools", "tools.json")
    code, out, err = swift(*flags, typed="hello\n")
    assert (code, out.count(RULE)) == (0, 1)
    assert "tools of tools.json: look (what they give is typed in)\n" in err


def test_tools_of_files_run_are_confirmed_and_typed_in_side_by_side(swift, base, tmp_path, monkeypatch):
    (tmp_path / "tools.json").write_text(json.dumps([LOOK]))
    (tmp_path / "house.py").write_text("def lamp(on: bool) -> str:\n    'Switches.'\n    return f'lamp {on}'\n")
    replies = [
        [Delta(tool_call=ToolCall("lamp", '{"on": true}', "1")), Delta(tool_call=ToolCall("look", "{}", "2"))],
        [Delta("It is bright.")],
    ]
    asked = []

    def chat(self, messages, tools=(), params=None, template_kwargs=None):
        asked.append((list(messages), [tool.name for tool in tools], params))
        parts = [*replies.pop(0), Delta(finish="stop", usage=Usage(1, 1))]
        return (part for part in parts)

    monkeypatch.setattr(LocalChat, "__call__", chat)
    flags = ("--model", base, "--template_type", "qwen", "--tools", "house.py", "tools.json", "--confirm", "writes")
    code, out, err = swift(*flags, "--agent_template", "hermes", typed="Light!\ny\na lamp\n")
    assert code == 0
    assert '<<<[run lamp {"on": true} from house.py? y/n/a] y\n' in out
    assert "lamp True" in out and "<<<[Observation look] a lamp\nIt is bright.\n" in out
    assert "tools of house.py: lamp*\ntools of tools.json: look (what they give is typed in)\n* may write\n" in err
    assert [message.content for message in asked[1][0][-2:]] == ["lamp True", "a lamp"]
    assert asked[0][1] == ["lamp", "look"] and asked[0][2].confidence


def test_with_many_tools_each_message_is_offered_and_held_to_those_that_fit(swift, base, tmp_path, monkeypatch):
    names = ("lamp", "parcel", "weather")
    (tmp_path / "many.py").write_text("".join(f"def {name}() -> str:\n    return '{name}'\n" for name in names))
    held = []
    submit = TorchEngine.submit

    def watched(engine, prompt, params, *more):
        held.append(params.guide.text)
        return submit(engine, prompt, params, *more)

    monkeypatch.setattr(TorchEngine, "submit", watched)
    words = ("--model", base, "--template_type", "chatml", "--max_new_tokens", 2, "--tools", "many.py")
    code, _, err = swift(
        *words, "--max_tools", 1, "--guided_tools", "true", typed="Where is my parcel?\nThe weather?\n"
    )
    assert code == 0
    assert "of 3 tools, the 1 that fit best are offered for each message" in err
    assert [[name in text for name in names] for text in held] == [[False, True, False], [False, False, True]]


def test_bytes_that_are_not_utf_8_end_no_dialogue(swift, base, monkeypatch):
    piped = io.TextIOWrapper(io.BytesIO("你好\n".encode("gbk") + b"fine\n"), "utf-8")
    monkeypatch.setattr(io, "StringIO", lambda typed: piped)
    flags = ("--model", base, "--template_type", "qwen", "--max_new_tokens", 2, "--save_result", "false")
    code, out, _ = swift(*flags)
    assert code == 0
    assert out.startswith(
        "<<< \ufffd\ufffd\ufffd\ufffd\n[invalid UTF-8: U+FFFD replaces each byte that could not be decoded]\n"
    )
    assert out.count(RULE) == 2


def test_a_dialogue_that_fills_the_context_says_so_and_goes_on(swift, base):
    code, out, _ = swift(
        *("--model", base, "--template_type", "qwen", "--max_new_tokens", 2, "--save_result", "false"),
        typed="x" * 3000 + "\nhello\n",
    )
    assert code == 0
    assert "error: the prompt has 3" in out
    assert out.count(RULE) == 1


# What is loaded


def test_a_checkpoint_answers_with_its_adapter_and_as_it_was_trained(base, adapter):
    chat = load_chat(config(ckpt_dir=adapter))
    assert chat.renderer.format_name == "hermes"
    assert "Be kind." in chat.renderer.decode(chat.renderer.prompt_tokens(ASK))
    prompt = chat.renderer.prompt_tokens(ASK)
    tuned = adapter_files.load(load_model(base, "fp32", "cpu"), adapter)
    assert tokens(chat, prompt) == generated(tuned, prompt) != generated(load_model(base, "fp32", "cpu"), prompt)


def tokens(chat, prompt):
    steps = [step.token for step in chat.engine.submit(prompt, GREEDY)]
    chat.engine.close()
    return steps


def generated(model, prompt):
    ids = torch.tensor([prompt])
    whole = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    return whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("inner", "missing", "kind", "dtype"),
    [
        (64, "", NativeRunner, torch.bfloat16),
        (64, "no compiler", TorchRunner, torch.float32),
        (72, "", TorchRunner, torch.float32),  # no multiple of 32, so not for the engine's C++
    ],
)
def test_a_cpu_without_bf16_serves_weights_published_in_it_as_they_are_where_c_plus_plus_is_there(
    inner, missing, kind, dtype, tmp_path, monkeypatch, capsys
):
    if (reason := native_runner.missing()) and kind is NativeRunner:
        pytest.skip(reason)
    folder = tiny_model_folder(
        tmp_path / "published", hidden_size=64, intermediate_size=inner, num_attention_heads=2, num_key_value_heads=1
    )
    load_model(folder, "bf16", "cpu").save_pretrained(folder)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(native_runner, "missing", lambda: missing)
    flags = ModelFlags(model_id_or_path=str(folder), dtype="AUTO", device="cpu")
    chat = load_chat(infer.Config(model=flags, template=TemplateFlags(template_type="qwen")))
    assert type(chat.engine._runner) is kind
    assert chat.engine.model.dtype is dtype
    chat.engine.close()
    assert ("replies are slower than they could be: no compiler" in capsys.readouterr().err) == bool(missing)


def test_flags_beat_the_checkpoints_record_even_when_they_say_the_default(adapter):
    typed = config(ckpt_dir=adapter, system="Be brief.", agent_template="AUTO")
    assert choose(typed).template.system == "Be brief."
    assert choose(typed).template.agent_template == "hermes", "nobody is known to have said AUTO"
    assert choose(typed, {"agent_template"}).template.agent_template == "AUTO"


def test_the_command_line_tells_a_default_said_from_one_not_said(swift, adapter, monkeypatch):
    seen = []
    monkeypatch.setattr("swift.assembly.loading.load_chat", lambda cfg, given: seen.append(choose(cfg, given)) or 1 / 0)
    for words in ((), ("--tools_prompt", "react_en")):
        with pytest.raises(ZeroDivisionError):
            swift("--ckpt_dir", adapter, *words)
    assert [choice.template.agent_template for choice in seen] == ["hermes", "react_en"]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_rounded_after_loading_answers(swift, tmp_path, monkeypatch, bits):
    asked = []
    start = TorchEngine.__init__
    monkeypatch.setattr(
        TorchEngine, "__init__", lambda *args, **more: asked.append(more["bits"]) or start(*args, **more)
    )
    model = tiny_model_folder(tmp_path / "wide", hidden_size=64, intermediate_size=128, initializer_range=0.2)
    words = ("--model", model, "--template_type", "chatml", "--max_new_tokens", 4, "--temperature", 0)
    rounded = ("--quantization_bit", bits, "--quant_method", "torch")
    for number, more in enumerate(((), rounded)):
        assert swift(*words, *more, "--result_dir", tmp_path / f"{number}", typed="hi\n")[0] == 0
    whole, fewer = (rows_of(tmp_path / f"{number}")[0] for number in range(2))
    assert asked == [0, bits]
    assert fewer["response"]
    assert fewer["query"] == whole["query"] == "hi"


def test_what_guided_calls_are_not_held_to_is_named_once(swift, base, tmp_path):
    (tmp_path / "tools.py").write_text(
        "from pathlib import Path\n\ndef read(at: Path, lines: set[int]) -> str:\n    return str(at)\n"
    )
    words = ("--model", base, "--template_type", "chatml", "--max_new_tokens", 3, "--tools", "tools.py")
    code, _, told = swift(*words, "--guided_tools", "true", typed="hi\nand?\n")
    assert code == 0
    named = [line for line in told.splitlines() if line.startswith("tool 'read': the grammar does not enforce")]
    assert [line.split(":")[1] for line in named] == [
        " the grammar does not enforce 'format' at /properties/at",
        " the grammar does not enforce 'uniqueItems' at /properties/lines",
    ]


def test_calls_in_a_dialogue_are_held_to_the_tools_of_its_file(swift, base, tmp_path, monkeypatch):
    (tmp_path / "tools.py").write_text('def look(at: int) -> str:\n    """Look somewhere."""\n    return "seen"\n')
    held = []
    submit = TorchEngine.submit

    def watched(engine, prompt, params, *more):
        held.append(params.guide)
        return submit(engine, prompt, params, *more)

    monkeypatch.setattr(TorchEngine, "submit", watched)
    words = ("--model", base, "--template_type", "chatml", "--max_new_tokens", 3, "--tools", "tools.py")
    assert swift(*words, typed="hi\n")[0] == 0
    assert swift(*words, "--guided_tools", "true", typed="hi\n")[0] == 0
    free, guided = held
    assert free is None
    assert "look" in guided.text


def test_a_record_can_be_left_unread(adapter):
    cfg = config(ckpt_dir=adapter, template_type="qwen")
    cfg = infer.Config(cfg.model, BackendFlags(ckpt_dir=str(adapter), load_args_from_ckpt_dir=False), cfg.template)
    assert choose(cfg).template == cfg.template


def test_an_adapter_that_another_program_trained_names_its_model_itself(base, adapter):
    (adapter / "sft_args.json").unlink()
    chat = load_chat(config(ckpt_dir=adapter, template_type="qwen"))
    assert greedy(chat) == greedy(load_chat(config(base, adapter, template_type="qwen")))


def test_a_whole_checkpoint_is_the_model(base, tmp_path):
    whole = tiny_model_folder(tmp_path / "checkpoint-9", seed=5, initializer_range=0.2)
    write_record(whole, model_id_or_path=str(base), model_type="qwen1half-7b-chat", sft_type="full")
    cfg = config(ckpt_dir=whole)
    assert choose(cfg).source == str(whole)
    assert greedy(load_chat(cfg)) == greedy(load_chat(config(whole, template_type="qwen", system="Be kind.")))
    assert model_name(cfg) == "qwen1half-7b-chat"


def test_a_merged_folder_answers_as_its_adapter_does(swift, base, adapter):
    cfg = config(ckpt_dir=adapter)
    merged = infer.Config(cfg.model, BackendFlags(ckpt_dir=str(adapter), merge_lora=True), cfg.template)
    replies = {greedy(load_chat(cfg)), greedy(load_chat(merged))}
    folder = adapter.parent / "checkpoint-7-merged"
    replies |= {greedy(load_chat(config(ckpt_dir=folder))), greedy(load_chat(config(folder, system="Be kind.")))}
    assert len(replies) == 1


def test_generation_flags_mean_what_they_say():
    flags = GenerationFlags(max_new_tokens=5, top_k=3, stop_words=("a",), repetition_penalty=1.2)
    params = sampling(flags)
    assert (params.max_tokens, params.top_k, params.stop, params.repetition_penalty) == (5, 3, ("a",), 1.2)
    assert sampling(GenerationFlags(do_sample=False)).temperature == 0


# Answering rows


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    given = [{"query": f"q{number}", "response": f"r{number}"} for number in range(12)]
    given[3] = {"system": "s", "query": "now", "response": "r", "history": [["before", "said"]]}
    given[4] = {"query": "x" * 3000, "response": "too long"}
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    return file


def test_replies_stand_beside_the_references(swift, base, rows, tmp_path):
    code, out, _ = swift(
        *("--model", base, "--template_type", "qwen", "--val_dataset", rows, "--eval_human", "false"),
        *("--show_dataset_sample", -1, "--max_new_tokens", 3),
    )
    assert code == 0
    saved = rows_of(tmp_path / "output" / "infer_result")
    assert [row["label"] for row in saved] == [json.loads(line)["response"] for line in rows.read_text().splitlines()]
    assert saved[3] | {"response": ""} == {
        "system": "s",
        "query": "now",
        "response": "",
        "label": "r",
        "history": [["before", "said"]],
        "source": saved[3]["source"],
    }
    assert saved[3]["response"]
    assert saved[4]["response"] is None
    assert "2048" in saved[4]["error"]
    assert "12 rows: 0 replies equal the reference" in out
    assert "1 rows could not be answered" in out
    assert "[QUERY] q0\n" in out


def test_ten_rows_are_drawn_evenly_and_the_draw_repeats(rows):
    def drawn(**more):
        flags = {"val_dataset": (str(rows),), **more}
        return [row.line for row in infer.load_rows(infer.RowFlags(**flags))]

    assert len(drawn()) == 10
    assert drawn() == drawn() != list(range(1, 11))
    assert drawn(show_dataset_sample=3) != drawn(show_dataset_sample=3, dataset_seed=1)


def test_of_a_training_set_the_held_out_rows_are_answered(rows):
    from swift.data.mix import DataPlan, load_datasets

    plan = DataPlan(dataset=(str(rows),), dataset_test_ratio=0.5)
    held_out = {row.line for row in load_datasets(plan)[1]}
    found = infer.load_rows(infer.RowFlags(dataset=(str(rows),), dataset_test_ratio=0.5))
    assert {row.line for row in found} == held_out


def test_a_reply_that_went_on_after_a_tools_result_is_saved_whole():
    call = ToolCall("look", '{"at": 1}')
    begun = Message("assistant", "Thought: t", (call,))
    row = Conversation((Message("user", "q"), begun, Message("tool", "seen"), Message("assistant", "Final Answer: a")))
    record = infer.describe(tool_format("react_en"), row)
    said = 'Thought: t\nAction: look\nAction Input: {"at": 1}\nObservation:seen\n'
    assert (record["query"], record["response"], record["label"]) == ("q", said, f"{said}Final Answer: a")
    assert record["history"] == []
    record = infer.describe(tool_format("hermes"), row)
    assert record["query"] == "<tool_response>\nseen\n</tool_response>"
    assert (record["response"], record["label"]) == ("", "Final Answer: a")
    assert record["history"][0][0] == "q"
    assert "<tool_call>" in record["history"][0][1]


def test_rows_are_answered_with_their_variables_and_thoughts_are_saved_but_not_compared(capsys):
    asked = []

    class Thinks:
        renderer = SimpleNamespace(tool_format=tool_format("hermes"))

        def __call__(self, messages, tools, params, template_kwargs):
            asked.append(template_kwargs)
            return iter([Delta(reasoning="Hm."), Delta("Yes."), Delta(finish="stop", usage=Usage(1, 1))])

    said = Message("assistant", "Yes.", reasoning="Easy.")
    row = Conversation((Message("user", "q"), said), template_kwargs={"enable_thinking": True})
    saved = []
    results = SimpleNamespace(add=saved.append, written=None)
    infer.answer_rows(Thinks(), [row], SamplingParams(), False, results)
    assert asked == [{"enable_thinking": True}]
    assert saved[0]["response"] == "<think>\nHm.\n</think>\n\nYes."
    assert saved[0]["label"] == "<think>\nEasy.\n</think>\n\nYes."
    assert "1 rows: 1 replies equal the reference" in capsys.readouterr().out


# What is wrong is said in a line


def test_a_lora_checkpoint_given_as_the_model_is_told_its_flag(swift, adapter):
    code, _, err = swift("--model_id_or_path", adapter)
    assert code == 2
    assert "--ckpt_dir" in err


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "--model_type, --model_id_or_path or --ckpt_dir"),
        (["--ckpt_dir", "nowhere"], "nowhere: no such folder"),
        (["--ckpt_dir", "{base}/.."], "neither adapter_config.json nor config.json"),
        (["--ckpt_dir", "run"], "did you mean"),
        (["--model", "{base}", "--infer_backend", "vlm"], "vllm"),
        (["--model", "{base}", "--eval_human", "false"], "--val_dataset or --dataset"),
        (["--model", "{base}", "--merge_lora", "true"], "--merge_lora true needs --ckpt_dir"),
        (["--model", "{base}", "--val_dataset", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "{base}", "--show_dataset_sample", "0"], "--show_dataset_sample 0"),
        (["--model", "{base}", "--temperature", "-1"], "temperature must be"),
        (["--model", "{base}", "--max_new_tokens", "0"], "--max_new_tokens 0"),
        (["--model", "{base}", "--template_type", "qwem"], "did you mean 'qwen'"),
        (["--model", "{base}", "--stopwords", "a"], "did you mean --stop_words"),
        (["--model", "{base}", "--tools", "nowhere.py"], "nowhere.py: no such file"),
        (["--model", "{base}", "--tools", "nowhere.json"], "nowhere.json: no such file"),
        (["--model", "{base}", "--tools", "a.py", "--val_dataset", "b.jsonl"], "--tools is for a dialogue"),
        (["--model", "{base}", "--guided_tools", "true"], "--guided_tools true does nothing without --tools"),
        (
            ["--model", "{base}", "--tools", "a.py", "--guided_tools", "true", "--infer_backend", "openvino"],
            "--guided_tools true does not work with --infer_backend openvino: use pt or vllm",
        ),
    ],
)
def test_a_wrong_flag_is_one_line(swift, base, adapter, words, said):
    code, out, err = swift(*[word.format(base=base) for word in words])
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "record, said", [("{", "not JSON"), ("[]", "not a JSON object"), ('{"system": [1]}', "system")]
)
def test_a_damaged_record_is_named(swift, adapter, record, said):
    (adapter / "sft_args.json").write_text(record)
    code, _, err = swift("--ckpt_dir", adapter)
    assert code == 2
    assert "sft_args.json" in err
    assert said in err


def test_a_half_written_checkpoint_is_named(swift, adapter):
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    code, _, err = swift("--ckpt_dir", adapter)
    assert code == 2
    assert "half-written" in err


def test_an_adapter_of_another_model_is_refused(swift, adapter, tmp_path):
    wider = tiny_model_folder(tmp_path / "wider", hidden_size=64)
    code, _, err = swift("--ckpt_dir", adapter, "--model_id_or_path", wider)
    assert code == 2
    assert "does not fit" in err
