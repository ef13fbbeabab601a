"""`--infer_backend openvino`: the same protocol and the same tokens as PyTorch's engine, on a random model."""

import threading
from dataclasses import replace

import pytest
import torch
from test_gguf import SIZES, byte_tokenizer, random_model
from tiny import tiny_model_folder
from transformers import LlamaConfig

from swift import cli
from swift.assembly import loading
from swift.chat import Message
from swift.commands.infer import Config
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.flag_groups import BackendFlags, ModelFlags, TemplateFlags
from swift.infer.chat import collect
from swift.model import gguf_write

pytest.importorskip("openvino_genai")
GREEDY = SamplingParams(max_tokens=12, temperature=0)
DRAWN = SamplingParams(max_tokens=12, seed=1)


@pytest.fixture(scope="module")
def model():
    return random_model(LlamaConfig)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    gguf_write.write(model, byte_tokenizer(), [2], path, "F16", "tiny")
    return path


def start(file, stops=()):
    from swift.engine.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(file, stops, SIZES["max_position_embeddings"], 300)


@pytest.fixture
def engine(file):
    started = start(file)
    yield started
    started.close()


def prompt(length, seed=0):
    return torch.randint(3, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def tokens(steps):
    return [step.token for step in steps]


def by_torch(model, prompts, params=GREEDY, stops=()):
    engine = TorchEngine(model, stops)
    try:
        return [list(engine.submit(each, params)) for each in prompts]
    finally:
        engine.close()


def test_greedy_replies_and_their_log_probabilities_are_those_of_pytorch(model, engine):
    prompts = [prompt(length, length) for length in (1, 7, 60, 200)]
    params = replace(GREEDY, logprobs=True)
    replies = [engine.submit(each, params) for each in prompts]
    for steps, expected in zip(replies, by_torch(model, prompts, params), strict=True):
        got = list(steps)
        assert [step.token for step in got] == [step.token for step in expected]
        assert [step.logprob for step in got] == pytest.approx([step.logprob for step in expected], abs=0.02)
        assert got[-1].finish == "length"


def test_a_stop_token_ends_the_reply_and_ignore_eos_does_not(model, file):
    (free,) = by_torch(model, [prompt(9)])
    stop = free[5].token
    expected = tokens(by_torch(model, [prompt(9)], stops=[stop])[0])
    engine = start(file, [stop])
    steps = list(engine.submit(prompt(9), GREEDY))
    assert (tokens(steps), steps[-1].finish) == (expected, "stop")
    assert tokens(engine.submit(prompt(9), replace(GREEDY, ignore_eos=True))) == tokens(free)
    engine.close()


def test_a_seeded_reply_repeats_whatever_runs_beside_it_and_another_seed_gives_another(engine):
    alone = tokens(engine.submit(prompt(5), DRAWN))
    beside = [engine.submit(prompt(5, seed), replace(DRAWN, seed=seed)) for seed in (7, 8)]
    again = engine.submit(prompt(5), DRAWN)
    assert tokens(again) == alone
    assert [len(tokens(each)) for each in beside] == [12, 12]
    assert tokens(engine.submit(prompt(5), replace(DRAWN, seed=2))) != alone


def test_many_threads_get_their_own_replies(model, engine):
    prompts = [prompt(seed + 2, seed) for seed in range(12)]
    replies = {}

    def ask(number):
        replies[number] = tokens(engine.submit(prompts[number], GREEDY))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert replies == {number: tokens(steps) for number, steps in enumerate(by_torch(model, prompts))}


def test_closed_and_dropped_replies_leave_room_and_the_others_go_on(model, engine):
    long = replace(GREEDY, max_tokens=400)
    closed, dropped = engine.submit(prompt(4), long), engine.submit(prompt(5), long)
    next(closed)
    closed.close()
    assert list(closed) == []
    del dropped
    other = engine.submit(prompt(6), GREEDY)
    assert tokens(other) == tokens(by_torch(model, [prompt(6)])[0])
    for _ in range(200):
        if not engine._running:
            break
        tokens(engine.submit(prompt(3), replace(GREEDY, max_tokens=1)))
    assert not engine._running


def test_closing_the_engine_ends_what_is_under_way(file):
    engine = start(file)
    steps = engine.submit(prompt(3), replace(GREEDY, max_tokens=400))
    next(steps)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        list(steps)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(prompt(3), GREEDY)


@pytest.mark.parametrize(
    "params, why",
    [
        (SamplingParams(logit_bias={5: 1.0}), "logit_bias is not supported"),
        (SamplingParams(logprobs=True), "log probabilities for temperature 0"),
        (SamplingParams(max_tokens=600), "512"),
    ],
)
def test_what_cannot_be_done_is_refused(engine, params, why):
    with pytest.raises(ValueError, match=why):
        engine.submit(prompt(4), params)
    with pytest.raises(ValueError, match="images"):
        engine.submit(prompt(4), GREEDY, inputs={})


def test_a_format_that_openvino_does_not_read_is_told_in_a_line(model, tmp_path):
    gguf_write.write(model, byte_tokenizer(), [2], tmp_path / "b.gguf", "BF16", "tiny")
    with pytest.raises(ValueError, match=r"b\.gguf: OpenVINO cannot load it: [^\n]+$"):
        start(tmp_path / "b.gguf")


# Through the front door


def config(folder, **changes):
    return Config(
        ModelFlags(model_id_or_path=str(folder), **changes),
        BackendFlags(infer_backend="openvino"),
        TemplateFlags(template_type="chatml"),
    )


def test_a_folder_is_written_to_the_cache_once_and_answers_as_pytorch(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path / "cache"))
    folder = tiny_model_folder(tmp_path / "base", vocab_size=300, initializer_range=0.3)
    byte_tokenizer().save_pretrained(folder)
    wanted = config(folder)
    reference = replace(wanted, backend=BackendFlags(infer_backend="pt"))
    replies = []
    for each in (wanted, wanted, reference):
        chat = loading.load_chat(each)
        replies.append(collect(chat([Message("user", "what will the weather be")], (), GREEDY)).message.content)
        chat.engine.close()
    assert replies[0] == replies[1] == replies[2] != ""
    assert capsys.readouterr().err.count("for OpenVINO (once)") == 1
    assert len(list((tmp_path / "cache" / "gguf").iterdir())) == 1


def test_a_model_that_openvino_computes_otherwise_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path / "cache"))
    folder = tiny_model_folder(tmp_path / "base", vocab_size=300, attention_bias=True)
    byte_tokenizer().save_pretrained(folder)
    argv = ["infer", "--model", str(folder), "--template_type", "chatml", "--infer_backend", "openvino"]
    assert cli.main(argv) == 2
    assert "without attention biases in Llama" in capsys.readouterr().err
    assert cli.main([*argv, "--device", "cuda"]) == 2
    assert "runs on the CPU" in capsys.readouterr().err
    assert cli.main([*argv, "--tensor_parallel_size", "2"]) == 2
    assert "--tensor_parallel_size is for vLLM" in capsys.readouterr().err
