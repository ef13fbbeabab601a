"""`--infer_backend vllm`: the real engine on the bundled model answers as PyTorch's does, adapters included.

Starting vLLM on a CPU takes a minute, so one engine, with an adapter beside its weights, serves every test.
"""

import json
import threading
from dataclasses import replace

import pytest
import torch
from jsonschema import Draft202012Validator

from swift.agent.schemas import argument_schema
from swift.assembly import backends
from swift.assembly.checkpoints import Choice
from swift.assembly.rendering import make_renderer
from swift.chat import Message, Tool
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.flag_groups import ModelFlags, TemplateFlags, VllmFlags
from swift.guided.grammar import Rules
from swift.infer.chat import collect
from swift.infer.local_chat import LocalChat
from swift.model import bundled, catalog, load
from swift.tuner import adapter_files, lora, merge

pytest.importorskip("vllm")
pytestmark = pytest.mark.model
GREEDY = SamplingParams(max_tokens=24, temperature=0, logprobs=True)
CLOSE = 0.1
"""Log probabilities of two tokens that rounding may exchange."""
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
QUESTIONS = ["What is the capital of France?", "Name three colours.", "Write a sentence about the sea."]


@pytest.fixture(scope="module")
def folder():
    return bundled.unpack()


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    """An adapter that changes what the model says."""
    tuned = lora.attach(load.load_model(folder, device="cpu"), lora.LoraOptions(targets=("q_proj", "v_proj")))
    torch.manual_seed(0)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.02
    path = tmp_path_factory.mktemp("run") / "checkpoint-1"
    adapter_files.save(tuned, path)
    return path


@pytest.fixture(scope="module")
def engine(folder, adapter):
    flags = VllmFlags(max_model_len=512, enforce_eager=True, vllm_enable_lora=True, gpu_memory_utilization=0.2)
    choice = Choice(ModelFlags(model_id_or_path=str(folder), dtype="fp32"), TemplateFlags(), adapter)
    started = backends.vllm(flags, choice, folder, [2])
    yield started
    started.close()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load.load_tokenizer(folder)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer(CHAT.format(question)).input_ids for question in QUESTIONS]


@pytest.fixture(scope="module")
def by_torch(folder, adapter):
    merged = merge.merge(adapter_files.load(load.load_model(folder, "fp32", "cpu"), adapter))
    engine = TorchEngine(merged, [2])
    yield engine
    engine.close()


def tokens(steps):
    return [step.token for step in steps]


def test_greedy_replies_are_those_of_pytorch_up_to_the_first_near_tie(engine, by_torch, prompts):
    replies = [engine.submit(prompt, GREEDY) for prompt in prompts]
    for prompt, steps in zip(prompts, replies, strict=True):
        got, expected = list(steps), list(by_torch.submit(prompt, GREEDY))
        first = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a.token != b.token), None)
        same = got[:first]
        assert [each.logprob for each in same] == pytest.approx([each.logprob for each in expected[:first]], abs=0.05)
        assert first is None or abs(got[first].logprob - expected[first].logprob) < CLOSE
        assert got[-1].finish == ("stop" if got[-1].token == 2 else "length")


def test_a_seeded_reply_repeats_and_another_seed_gives_another(engine, prompts):
    drawn = SamplingParams(max_tokens=16, seed=1)
    alone = tokens(engine.submit(prompts[2], drawn))
    assert tokens(engine.submit(prompts[2], drawn)) == alone
    assert tokens(engine.submit(prompts[2], replace(drawn, seed=2))) != alone


def test_many_threads_get_their_own_replies(engine, prompts):
    params = replace(GREEDY, max_tokens=8)
    alone = [tokens(engine.submit(prompt, params)) for prompt in prompts]
    replies = {}

    def ask(number):
        replies[number] = tokens(engine.submit(prompts[number % 3], params))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [replies[number] == alone[number % 3] for number in range(12)].count(True) >= 11, "a near-tie at most"


def test_a_stop_token_can_be_ignored_and_options_are_mapped(engine, prompts):
    reply = list(engine.submit(prompts[0], replace(GREEDY, ignore_eos=True)))
    assert len(reply) == 24
    first = reply[0].token
    banned = replace(GREEDY, max_tokens=1, logit_bias={first: -100})
    assert tokens(engine.submit(prompts[0], banned)) != [first]


def test_the_likeliest_tokens_are_told_as_pytorch_tells_them(engine, by_torch, prompts):
    params = replace(GREEDY, max_tokens=4, top_logprobs=3)
    got, expected = ([step.top for step in each.submit(prompts[0], params)] for each in (engine, by_torch))
    for mine, theirs in zip(got, expected, strict=True):
        assert [logprob for _, logprob in mine] == pytest.approx([logprob for _, logprob in theirs], abs=0.05)
    assert got[0][0][0] == expected[0][0][0]


def test_no_stop_token_comes_before_the_least_number(engine, prompts):
    wish = replace(GREEDY, max_tokens=6, logit_bias={2: 100})
    assert tokens(engine.submit(prompts[0], wish)) == [2]
    assert 2 not in tokens(engine.submit(prompts[0], replace(wish, min_tokens=4)))[:4]


def test_a_call_is_held_to_its_schema(engine, folder):
    properties = {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 3}}
    tool = Tool({"name": "weather", "parameters": {"properties": properties, "required": ["city", "days"]}})
    for name in ("hermes", "react_en", "qwen3_coder"):
        chat = LocalChat(
            engine, make_renderer(folder, TemplateFlags(agent_template=name), catalog.find("smollm2-135m-instruct"))
        )
        guide = chat.guide(Rules((tool,), required=True, parallel=False))
        params = SamplingParams(max_tokens=200, temperature=1.5, seed=3, guide=guide)
        reply = collect(chat([Message("user", "Weather?")], [tool], params))
        assert reply.finish == "tool_calls"
        (call,) = reply.message.tool_calls
        Draft202012Validator(argument_schema(tool)).validate(json.loads(call.arguments))


def test_closed_and_dropped_replies_are_aborted_and_others_go_on(engine, prompts):
    long = replace(GREEDY, max_tokens=300, ignore_eos=True)
    closed, dropped = engine.submit(prompts[0], long), engine.submit(prompts[1], long)
    next(closed)
    closed.close()
    assert list(closed) == []
    del dropped
    assert len(tokens(engine.submit(prompts[2], replace(GREEDY, max_tokens=4)))) == 4
    for _ in range(100):
        if not engine._under_way:
            break
        tokens(engine.submit(prompts[2], replace(GREEDY, max_tokens=1)))
    assert not engine._under_way


def test_what_does_not_fit_is_refused(engine, prompts):
    with pytest.raises(ValueError, match="512"):
        engine.submit(prompts[0], replace(GREEDY, max_tokens=600))
    with pytest.raises(ValueError, match="token 99999999"):
        engine.submit([99999999], GREEDY)
    with pytest.raises(ValueError, match="images"):
        engine.submit(prompts[0], GREEDY, inputs={})
