"""`--infer_backend vllm`: the real engine on the bundled model answers as PyTorch's does, adapters included.

Starting vLLM on a CPU takes a minute, so one engine, with an adapter beside its weights, serves every test.
"""

import threading
from dataclasses import replace

import pytest
import torch

from swift.commands import backends
from swift.commands.groups import ModelFlags, TemplateFlags, VllmFlags
from swift.commands.loading import Choice
from swift.infer.engine import TorchEngine
from swift.infer.sample import SamplingParams
from swift.model import bundled, load
from swift.tuner import attach

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
    tuned = attach.attach(load.load_model(folder, device="cpu"), attach.LoraOptions(targets=("q_proj", "v_proj")))
    torch.manual_seed(0)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.02
    path = tmp_path_factory.mktemp("run") / "checkpoint-1"
    attach.save(tuned, path)
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
    merged = attach.merge(attach.load(load.load_model(folder, "fp32", "cpu"), adapter))
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
