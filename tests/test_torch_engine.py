"""Token ids in, token ids out, with random tiny models: no text is involved."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_model_folder
from tiny_classes import SETTINGS
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    MistralConfig,
    MistralForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swift.engine.adapters import BASE
from swift.engine.interface import Busy
from swift.engine.prefix_cache import BLOCK_SIZE, PrefixCache
from swift.engine.runner import Chunk, KVBlock
from swift.engine.sampling import SampledToken, SamplingParams, sampler
from swift.engine.scheduler import MIXED_PREFILL_TOKENS
from swift.engine.torch_engine import TorchEngine
from swift.engine.transformers_runner import TransformersRunner

VOCABULARY, CONTEXT = 64, 512
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "eos_token_id": None,
    "initializer_range": 0.5,  # far from uniform, so that greedy choices are no ties
}
GREEDY = SamplingParams(max_tokens=12, temperature=0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.fixture(params=[True, False], ids=["fast", "transformers"])
def engine(request, model):
    with_no_stop = TorchEngine(model, stop_tokens=(), fast=request.param)
    yield with_no_stop
    with_no_stop.close()


def prompt(length, seed=0):
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def tokens(steps):
    return [step.token for step in steps]


def reference(model, prompt, new):
    tokens = torch.tensor([prompt])
    ids = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, do_sample=False)
    return ids[0, len(prompt) :].tolist()


def test_a_greedy_reply_is_what_transformers_generates(model, engine):
    for length in (1, 2, 7, MIXED_PREFILL_TOKENS, MIXED_PREFILL_TOKENS + 1, 300):
        assert tokens(engine.submit(prompt(length), GREEDY)) == reference(model, prompt(length), 12)


def test_replies_decoded_in_one_batch_equal_those_decoded_alone(model, engine):
    prompts = [prompt(length, seed=length) for length in (3, 40, 11, 200, 1)]
    replies = [engine.submit(each, GREEDY) for each in prompts]
    assert [tokens(each) for each in replies] == [reference(model, each, 12) for each in prompts]


def test_requests_that_join_or_leave_the_batch_do_not_change_the_others(model, engine):
    long = engine.submit(prompt(20), SamplingParams(max_tokens=60, temperature=0))
    first = [next(long).token for _ in range(5)]
    late = engine.submit(prompt(50, seed=5), SamplingParams(max_tokens=3, temperature=0))
    later = engine.submit(prompt(2, seed=6), SamplingParams(max_tokens=30, temperature=0))
    assert tokens(late) == reference(model, prompt(50, seed=5), 3)
    assert tokens(later) == reference(model, prompt(2, seed=6), 30)
    assert first + tokens(long) == reference(model, prompt(20), 60)


def test_more_requests_than_the_batch_holds_wait_their_turn(model):
    engine = TorchEngine(model, (), max_batch=2)
    replies = [engine.submit(prompt(5, seed), GREEDY) for seed in range(5)]
    assert [tokens(each) for each in replies] == [reference(model, prompt(5, seed), 12) for seed in range(5)]
    engine.close()


def test_a_model_with_sliding_attention_sees_its_window_only():
    torch.manual_seed(1)
    sliding = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)).eval()
    engine = TorchEngine(sliding, ())
    replies = [engine.submit(prompt(length, length), GREEDY) for length in (30, 200)]
    assert [tokens(each) for each in replies] == [
        reference(sliding, prompt(length, length), 12) for length in (30, 200)
    ]
    engine.close()


RECURRENT = {
    "qwen3_5_text": SETTINGS["qwen3_5"]["text_config"],
    "qwen3_next": SETTINGS["qwen3_next"],
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "nemotron_h": SETTINGS["nemotron_h"],
    "falcon_h1": {
        **{"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1},
    },
}
"""Families with layers that keep a state, by model_type."""


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_model_with_recurrent_layers_generates_what_transformers_does_whatever_else_runs(kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **RECURRENT[kind]})).eval()
    prompts = [prompt(length, seed=length) for length in (3, 1, 40, MIXED_PREFILL_TOKENS + 30)]
    expected = [reference(model, each, 12) for each in prompts]
    engine = TorchEngine(model, stop_tokens=())
    replies = [engine.submit(each, GREEDY) for each in prompts]
    assert [tokens(each) for each in replies] == expected
    assert tokens(engine.submit(prompts[-1], GREEDY)) == expected[-1]  # no prefix is reused
    engine.close()


def computed(engine):
    """What the model computes from now on: a list of steps, each the token counts of its chunks."""
    steps, step = [], engine._runner.step

    def counted(chunks):
        steps.append([len(chunk.tokens) for chunk in chunks])
        return step(chunks)

    engine._runner.step = counted
    return steps


def prefilled(steps):
    return sum(count for step in steps for count in step if count > 1)


def test_the_next_turn_of_a_conversation_computes_only_its_new_tokens(model, engine):
    asked = prompt(200)
    said = tokens(engine.submit(asked, GREEDY))
    again = [*asked, *said, *prompt(20, seed=9)]
    steps = computed(engine)
    assert tokens(engine.submit(again, GREEDY)) == reference(model, again, 12)
    assert prefilled(steps) <= 20 + 12 + BLOCK_SIZE


def test_alternating_conversations_each_reuse_their_own_prefix(model, engine):
    talks = [prompt(100, seed) for seed in range(4)]
    for turn in range(3):
        steps = computed(engine)
        replies = [tokens(engine.submit(talk, GREEDY)) for talk in talks]
        assert replies == [reference(model, talk, 12) for talk in talks]
        assert prefilled(steps) <= (4 * 100 if turn == 0 else 4 * (12 + 10 + BLOCK_SIZE))
        talks = [[*talk, *reply, *prompt(10, turn)] for talk, reply in zip(talks, replies, strict=True)]


def test_a_prefix_common_to_concurrent_requests_is_computed_once(model, engine):
    system = prompt(160)
    asked = [[*system, *prompt(9, seed)] for seed in range(5)]
    steps = computed(engine)
    replies = [engine.submit(each, GREEDY) for each in asked]
    assert [tokens(each) for each in replies] == [reference(model, each, 12) for each in asked]
    assert prefilled(steps) <= 160 + 5 * (9 + BLOCK_SIZE)


def zeros(start, end):
    return KVBlock(end - start, [torch.zeros(end - start)])


def test_the_least_recently_used_blocks_are_evicted_first_and_the_limit_holds():
    prefixes = PrefixCache(limit=10 * 4 * BLOCK_SIZE)
    talks = [list(range(start, start + 4 * BLOCK_SIZE)) for start in (0, 1000, 2000)]
    for talk in talks:
        prefixes.insert("base", talk, zeros)
        assert prefixes.bytes <= 10 * 4 * BLOCK_SIZE
    assert [len(prefixes.match("base", talk)) for talk in talks] == [2, 4, 4], "the oldest lost its end"
    prefixes.insert("base", [*talks[0], *talks[1]], zeros)
    assert [len(prefixes.match("base", talk)) for talk in talks] == [4, 0, 2]
    assert not prefixes.match("other", talks[0])
    prefixes.clear("base")
    assert prefixes.bytes == 0 and not prefixes.match("base", talks[0])


def test_a_prefix_longer_than_the_limit_is_stored_as_far_as_it_fits():
    prefixes = PrefixCache(limit=3 * 4 * BLOCK_SIZE)
    prefixes.insert("base", list(range(9 * BLOCK_SIZE)), zeros)
    assert len(prefixes.match("base", list(range(9 * BLOCK_SIZE)))) == 3


def test_a_long_prompt_does_not_make_replies_wait_for_its_end(engine):
    steps = computed(engine)
    reply = engine.submit(prompt(5), SamplingParams(max_tokens=60, temperature=0))
    next(reply)
    late = engine.submit(prompt(480, seed=1), GREEDY)
    next(late)
    list(reply)
    assert max(count for step in steps for count in step) <= MIXED_PREFILL_TOKENS
    assert sum(1 for step in steps if max(step) > 1) >= 480 // MIXED_PREFILL_TOKENS


def test_a_short_prompt_does_not_wait_for_the_end_of_a_long_one(model, engine):
    steps = computed(engine)
    running = engine.submit(prompt(3, seed=8), SamplingParams(max_tokens=100, temperature=0))
    next(running)
    long, short = engine.submit(prompt(490, seed=1), GREEDY), engine.submit(prompt(8, seed=2), GREEDY)
    assert next(short).token == reference(model, prompt(8, seed=2), 1)[0]
    at = next(index for index, step in enumerate(steps) if 8 in step)
    assert prefilled(steps[: at + 1]) < 490
    assert tokens(long) == reference(model, prompt(490, seed=1), 12)


def test_a_chunk_of_one_token_in_the_middle_of_a_prompt_is_not_decoding(model):
    runner = TransformersRunner(model)
    reply, late = runner.open(), runner.open()
    runner.step([Chunk(reply, prompt(5))])
    runner.step([Chunk(reply, [1])])
    runner.step([Chunk(late, prompt(9)[:4], needs_logits=False)])
    runner.step([Chunk(late, prompt(9)[4:5], needs_logits=False)])
    logits = runner.step([Chunk(late, prompt(9)[5:])])
    with torch.inference_mode():
        wanted = model(torch.tensor([prompt(9)])).logits[:, -1]
    torch.testing.assert_close(logits, wanted)


def test_where_memory_is_short_requests_wait_and_none_is_lost(model):
    bytes_of_one = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, fp32
    engine = TorchEngine(model, (), memory=2 * 600 * bytes_of_one)
    asked = [prompt(150, seed) for seed in range(6)]
    replies = [engine.submit(each, SamplingParams(max_tokens=80, temperature=0)) for each in asked]
    most = 0
    for each, reply in zip(asked, replies, strict=True):
        assert tokens(reply) == reference(model, each, 80)
        most = max(most, engine._runner._cache.slots * engine._runner._cache.capacity)
    assert most <= 600
    engine.close()
    small = TorchEngine(model, (), memory=2 * 300 * bytes_of_one)
    with pytest.raises(ValueError, match="memory holds, a context of 300"):
        small.submit(prompt(310), GREEDY)
    small.close()


def test_a_full_queue_says_so_at_once(model):
    engine = TorchEngine(model, (), max_batch=1, max_queue=2)
    running = engine.submit(prompt(3), SamplingParams(temperature=0))
    next(running)
    waiting = [engine.submit(prompt(4), GREEDY), engine.submit(prompt(5), GREEDY)]
    with pytest.raises(Busy, match="2 requests are waiting"):
        engine.submit(prompt(6), GREEDY)
    running.close()
    assert [len(tokens(each)) for each in waiting] == [12, 12]
    assert len(tokens(engine.submit(prompt(6), GREEDY))) == 12
    engine.close()


def test_no_stop_token_comes_before_min_tokens(model):
    greedy = reference(model, prompt(9), 12)
    engine = TorchEngine(model, stop_tokens=[greedy[2]])
    assert len(tokens(engine.submit(prompt(9), GREEDY))) <= 3
    for temperature in (0, 1):
        params = SamplingParams(max_tokens=12, min_tokens=8, temperature=temperature, seed=0)
        steps = list(engine.submit(prompt(9), params))
        assert greedy[2] not in [step.token for step in steps[:8]]
        assert len(steps) >= 8
    engine.close()


def test_top_log_probabilities_of_the_sampler_reach_the_caller(model, monkeypatch):
    told = ((1, -0.5), (2, -1.5))
    monkeypatch.setattr(
        "swift.engine.request.sampler", lambda params, prompt, stops: lambda logits, reply: SampledToken(1, -0.5, told)
    )
    engine = TorchEngine(model, ())
    steps = list(engine.submit(prompt(3), SamplingParams(max_tokens=2, presence_penalty=1)))
    assert [step.top for step in steps] == [told, told]
    engine.close()


def test_greedy_and_sampled_requests_in_one_batch_do_not_change_each_other(model, engine):
    drawn = SamplingParams(max_tokens=12, temperature=1.5, seed=4)
    alone = tokens(engine.submit(prompt(30, 1), drawn))
    together = [engine.submit(prompt(20, 0), GREEDY), engine.submit(prompt(30, 1), drawn)]
    assert [tokens(each) for each in together] == [reference(model, prompt(20, 0), 12), alone]


def test_a_seeded_reply_repeats_and_another_seed_gives_another(engine):
    def draw(seed):
        return tokens(engine.submit(prompt(150), SamplingParams(max_tokens=30, temperature=1.5, seed=seed)))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_the_step_that_ends_a_reply_says_why(model):
    greedy = reference(model, prompt(9), 12)
    stop = greedy[4]
    engine = TorchEngine(model, stop_tokens=[stop])
    steps = list(engine.submit(prompt(9), GREEDY))
    assert [step.token for step in steps] == greedy[: greedy.index(stop) + 1]
    assert [step.finish for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert steps[-1].finish == "stop"
    ignoring = list(engine.submit(prompt(9), SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)))
    assert [step.token for step in ignoring] == greedy
    assert ignoring[-1].finish == "length"
    engine.close()


def test_log_probabilities_are_the_models_own(model, engine):
    steps = list(engine.submit(prompt(6), SamplingParams(max_tokens=4, temperature=0.5, seed=3)))
    with torch.inference_mode():
        whole = torch.tensor([prompt(6) + [step.token for step in steps]])
        expected = model(whole).logits[0, 5:-1].log_softmax(-1)
    for step, row in zip(steps, expected, strict=True):
        assert step.logprob == pytest.approx(float(row[step.token]), abs=1e-4)


def test_closing_or_dropping_a_reply_stops_its_work(model):
    engine = TorchEngine(model, (), max_batch=1)
    endless = SamplingParams(temperature=0)
    closed = engine.submit(prompt(3), endless)
    next(closed)
    closed.close()
    assert list(closed) == []
    next(engine.submit(prompt(3), endless))  # dropped at once
    began = time.monotonic()
    assert tokens(engine.submit(prompt(4), GREEDY)) == reference(model, prompt(4), 12)
    assert time.monotonic() - began < 2
    assert not engine._scheduler.running and not engine._runner._cache._open
    engine.close()


def test_an_error_reaches_its_own_request_alone(model, engine):
    step = engine._runner.step

    def fails_on_five(chunks):
        if any(len(chunk.tokens) == 5 for chunk in chunks):
            raise RuntimeError("out of memory, say")
        return step(chunks)

    engine._runner.step = fails_on_five
    good, bad = engine.submit(prompt(4), GREEDY), engine.submit(prompt(5), GREEDY)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(bad)
    assert tokens(good) == reference(model, prompt(4), 12)


def test_many_threads_get_their_own_replies(model, engine):
    replies = {}

    def ask(seed):
        replies[seed] = tokens(engine.submit(prompt(seed + 1, seed), GREEDY))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert replies == {seed: reference(model, prompt(seed + 1, seed), 12) for seed in range(24)}


def test_a_reply_that_the_context_cannot_hold_is_refused_with_both_numbers(engine):
    with pytest.raises(ValueError, match=r"500 tokens.*may have 20.*512"):
        engine.submit(prompt(500), SamplingParams(max_tokens=20))
    with pytest.raises(ValueError, match="512"):
        engine.submit(prompt(512), SamplingParams())
    with pytest.raises(ValueError, match="512"):
        engine.submit(prompt(512), SamplingParams(max_tokens=5, clip=True))


def test_a_reply_without_a_length_or_with_a_clipped_one_fills_the_context(engine):
    assert len(tokens(engine.submit(prompt(500), SamplingParams(temperature=0)))) == 12
    assert len(tokens(engine.submit(prompt(500), SamplingParams(max_tokens=20, clip=True, temperature=0)))) == 12


def test_tokens_that_the_model_does_not_know_are_refused(engine):
    with pytest.raises(ValueError, match="the prompt is empty"):
        engine.submit([], GREEDY)
    with pytest.raises(ValueError, match="token 64"):
        engine.submit([1, 64], GREEDY)
    with pytest.raises(ValueError, match="logit_bias contains token 99"):
        engine.submit([1], SamplingParams(logit_bias={99: 1}))


def test_an_image_goes_with_its_prompt_in_one_piece_and_moves_the_positions_behind_it(model):
    torch.manual_seed(0)
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2, "patch_size": 4}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    ids = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
    config = Qwen2VLConfig(
        text_config={**SIZES, "model_type": "qwen2_vl_text", "rope_parameters": rope}, vision_config=vision, **ids
    )
    seeing = Qwen2VLForConditionalGeneration(config).eval()
    asked = [[1, 62, *[60] * 24, 63, *(token % 60 for token in prompt(length))] for length in (5, 150)]
    seen = [
        {
            "pixel_values": torch.randn(96, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(index)),
            "image_grid_thw": torch.tensor([[1, 8, 12]]),
            "mm_token_type_ids": (torch.tensor([each]) == 60).int(),
        }
        for index, each in enumerate(asked)
    ]
    told = [token % 60 for token in prompt(170)]
    wanted = [
        seeing.generate(torch.tensor([row]), **inputs, max_new_tokens=12, do_sample=False)[0, len(row) :].tolist()
        for row, inputs in zip([*asked, told], [*seen, {}], strict=True)
    ]
    engine = TorchEngine(seeing, ())
    replies = [engine.submit(row, GREEDY, inputs) for row, inputs in zip([*asked, told], [*seen, {}], strict=True)]
    assert [tokens(reply) for reply in replies] == wanted
    assert not engine._states.prefixes.match(BASE, asked[1]), "the same tokens may stand for another image"
    engine.close()
    blind = TorchEngine(model, ())
    with pytest.raises(ValueError, match="LlamaForCausalLM takes tokens alone, not pixel_values"):
        blind.submit(prompt(5), GREEDY, seen[0])
    blind.close()


def test_closing_the_engine_ends_what_is_under_way(model):
    engine = TorchEngine(model, ())
    steps = engine.submit(prompt(3), SamplingParams(temperature=0))
    next(steps)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        list(steps)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(prompt(3), GREEDY)


# Sampling


def logits(seed=0):
    return torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3


def support(params, scores, reply=()):
    """The tokens that can be sampled, found by sampling often."""
    draw = sampler(params)
    return {draw(scores, reply).token for _ in range(600)}


@pytest.mark.parametrize(
    "params, processors",
    [
        (SamplingParams(top_k=5), [TopKLogitsWarper(5)]),
        (SamplingParams(top_p=0.7), [TopPLogitsWarper(0.7)]),
        (SamplingParams(min_p=0.1), [MinPLogitsWarper(0.1)]),
        (
            SamplingParams(temperature=0.6, top_k=12, top_p=0.8, min_p=0.02),
            [TemperatureLogitsWarper(0.6), TopKLogitsWarper(12), TopPLogitsWarper(0.8), MinPLogitsWarper(0.02)],
        ),
    ],
)
def test_tokens_are_sampled_with_the_probabilities_of_transformers(params, processors):
    scores = logits()
    expected = LogitsProcessorList(processors)(torch.zeros(1, 1, dtype=torch.long), scores[None].clone())[0].softmax(-1)
    draw = sampler(SamplingParams(**{name: getattr(params, name) for name in params.__slots__} | {"seed": 0}))
    drawn = torch.bincount(torch.tensor([draw(scores, ()).token for _ in range(3000)]), minlength=50) / 3000
    assert set(drawn.nonzero().flatten().tolist()) <= set(expected.nonzero().flatten().tolist())
    assert (drawn - expected).abs().max() < 0.04


def test_the_repetition_penalty_is_that_of_transformers():
    scores = logits(2)
    seen = [int(scores.argmax()), int(scores.argmin()), 7, 7]
    expected = RepetitionPenaltyLogitsProcessor(2.5)(torch.tensor([seen]), scores[None].clone())[0]
    chosen = sampler(SamplingParams(temperature=0, repetition_penalty=2.5), prompt=seen[:2])(scores, seen[2:])
    assert chosen.token == int(expected.argmax()) != int(scores.argmax())


def test_presence_counts_once_and_frequency_every_time_in_the_reply_alone():
    scores = torch.tensor([1.0, 0.9, 0.0])
    presence = sampler(SamplingParams(temperature=0, presence_penalty=0.05), prompt=[0, 0])
    assert [presence(scores, reply).token for reply in ([], [0], [0, 0, 0])] == [0, 0, 0]
    frequency = sampler(SamplingParams(temperature=0, frequency_penalty=0.05), prompt=[0, 0])
    assert [frequency(scores, reply).token for reply in ([], [0], [0, 0, 0])] == [0, 0, 1]


def test_a_logit_bias_moves_its_token_and_no_log_probability():
    scores = logits()
    plain = sampler(SamplingParams(temperature=0))(scores, ())
    banned = sampler(SamplingParams(temperature=0, logit_bias={plain.token: -100}))(scores, ())
    forced = sampler(SamplingParams(logit_bias={3: 100}))(scores, ())
    assert banned.token != plain.token
    assert forced.token == 3
    assert forced.logprob == pytest.approx(float(scores.log_softmax(-1)[3]), abs=1e-5)


def test_top_k_larger_than_the_vocabulary_is_no_limit():
    assert len(support(SamplingParams(top_k=1000, temperature=5), torch.zeros(4))) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"presence_penalty": 3},
        {"frequency_penalty": -3},
        {"max_tokens": 0},
        {"min_tokens": -1},
        {"stop": ("",)},
        {"logit_bias": {1: 200}},
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_parameter(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_a_program_may_end_without_closing_its_engine(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "tiny")
    code = f"""
from pathlib import Path
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.model.load import load_model

engine = TorchEngine(load_model(Path({str(folder)!r}), "fp32", "cpu"), [])
unread = engine.submit([1, 2, 3], SamplingParams(max_tokens=2000))
print(next(unread).token >= 0)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
