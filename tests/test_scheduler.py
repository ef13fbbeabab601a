"""The scheduler without a model: who is computed in a step, and how much of it."""

import subprocess
import sys

import pytest

from swift.engine.interface import Busy
from swift.engine.scheduler import Scheduler, Sequence

BLOCK_SIZE = 4


class States:
    """Memory for `capacity` positions, and prefixes that are kept in whole blocks."""

    def __init__(self, capacity=10_000):
        self.capacity = capacity
        self.stored, self.opened, self.fails = [], [], []

    def open(self, sequence):
        if sequence in self.fails:
            return False
        fits = (
            self.cached(sequence.tokens[:-1], stored) for adapter, stored in self.stored if adapter is sequence.adapter
        )
        sequence.computed = max(fits, default=0) if sequence.shares_prefix else 0
        self.opened.append(sequence)
        return True

    def store(self, sequence):
        self.stored.append((sequence.adapter, sequence.tokens[: sequence.computed]))

    def close(self, sequence, store):
        if store:
            self.store(sequence)
        self.opened.remove(sequence)

    def cached(self, tokens, stored):
        return next(
            size for size in range(min(len(tokens), len(stored)) // BLOCK_SIZE * BLOCK_SIZE, -1, -BLOCK_SIZE)
            if tokens[:size] == stored[:size]
        )  # fmt: skip


def scheduler(states=None, max_running=8, max_waiting=None, **more):
    budgets = {"prefill_tokens": 40, "mixed_prefill_tokens": 20}
    return Scheduler(states or States(), max_running, max_waiting, block_size=BLOCK_SIZE, **{**budgets, **more})


def sequence(length, start=0, **more):
    """Tokens of their own for each `start`."""
    return Sequence(range(1000 * start, 1000 * start + length), **more)


def added(to, *sequences):
    for each in sequences:
        to.add(each)
    return sequences


def step(on):
    """One step of an engine: what was computed, as (sequence, count). Every finished prompt and reply gets a token."""
    output = on.schedule()
    computed = [(chunk.sequence, chunk.count) for chunk in [*output.decoding, *output.prefill]]
    for each, count in computed:
        each.computed += count
        if count > 1:
            on._states.store(each)
        if not each.remaining:
            each.tokens.append(7)
    return computed


def test_it_needs_no_torch():
    code = "import sys, swift.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_prompt_is_computed_in_chunks_and_then_decoded_token_by_token():
    on = scheduler()
    (one,) = added(on, sequence(50))
    # half of the budget is the oldest prompt's, and the other half the shortest's, which is the same one
    assert [step(on) for _ in range(4)] == [[(one, 40)], [(one, 10)], [(one, 1)], [(one, 1)]]
    on.finish(one)
    assert not on.has_work and step(on) == []


def test_prompt_tokens_are_fewer_while_others_decode():
    on = scheduler()
    (reply,) = added(on, sequence(1))
    (prompt,) = added(on, sequence(100, 1))
    assert step(on) == [(reply, 1), (prompt, 20)]
    on.finish(reply)
    assert step(on) == [(prompt, 40)]


def test_half_of_the_budget_is_the_oldest_prompts_and_the_rest_the_shortest_ones():
    on = scheduler()
    long, longer, short = added(on, sequence(100, 1), sequence(200, 2), sequence(8, 3))
    assert dict(step(on)) == {long: 20 + 12, short: 8}
    several = added(on, sequence(30, 4), sequence(5, 5))
    assert dict(step(on)) == {short: 1, long: 10, several[1]: 5, several[0]: 5}
    assert longer.computed == 0, "the rest was spent on shorter ones"


def test_no_more_than_max_running_run_and_the_others_wait_in_their_order():
    on = scheduler(max_running=2)
    first, second, third, fourth = added(on, *(sequence(5, number) for number in range(4)))
    step(on)
    assert on.running == [first, second] and list(on.waiting) == [third, fourth]
    on.finish(first)
    step(on)
    assert on.running == [second, third]


def test_sequences_are_admitted_while_memory_holds_each_as_long_as_the_longest():
    on = scheduler(States(capacity=90))
    short, long, third = added(on, sequence(10), sequence(40, 1), sequence(5, 2))
    step(on)
    assert on.running == [short, long], "three places of 40 are more than 90"
    on.finish(long)
    step(on)
    assert on.running == [short, third]


def test_a_sequence_alone_is_admitted_whatever_the_memory():
    on = scheduler(States(capacity=10))
    (one,) = added(on, sequence(30))
    assert step(on) == [(one, 30)]


def test_when_replies_outgrow_memory_the_youngest_waits_again_and_before_all_others():
    states = States(capacity=24)
    on = scheduler(states, max_running=2)
    old, young, waiting = added(on, sequence(11), sequence(11, 1), sequence(3, 2))
    step(on)
    assert on.running == [old, young] and len(young.tokens) == 12
    step(on)
    step(on)
    assert on.running == [old] and list(on.waiting) == [young, waiting]
    assert not young.started and states.opened == [old]
    assert len(young.tokens) == 13, "its reply is kept"
    on.finish(old)
    assert step(on)[0] == (young, 1), "all of its 12 computed tokens are in the prefix cache"


def test_a_prompt_waits_until_an_older_one_has_computed_their_common_prefix():
    on = scheduler()
    system = list(range(60))
    one, two = added(on, Sequence([*system, 100, 101]), Sequence([*system, 200, 201]))
    assert step(on) == [(one, 40)]
    assert two.computed == 0 and not two.started
    assert step(on) == [(one, 22)]
    assert step(on) == [(one, 1), (two, 2)], "60 of its tokens are cached"


@pytest.mark.parametrize("more", [{"adapter": "poet"}, {"shares_prefix": False}])
def test_nobody_waits_for_a_prefix_of_another_adapter_or_behind_an_image(more):
    on = scheduler()
    one, two = added(on, sequence(12), sequence(12, **more))
    assert dict(step(on)) == {one: 12, two: 12}


def test_prompts_that_differ_in_their_next_block_do_not_wait_for_each_other():
    on = scheduler()
    one, two = added(on, Sequence([1, 2, 3, 4, 5, 6]), Sequence([1, 2, 3, 9, 5, 6]))
    assert dict(step(on)) == {one: 6, two: 6}


def test_a_prompt_with_an_image_is_computed_in_one_chunk():
    on = scheduler()
    (one,) = added(on, sequence(100, splittable=False, shares_prefix=False))
    assert step(on) == [(one, 100)]


def test_the_unsplit_tokens_and_the_next_are_in_the_first_chunk():
    on = scheduler(unsplit=50)
    (one,) = added(on, sequence(100))
    assert [step(on), step(on)] == [[(one, 51)], [(one, 40)]]


def test_a_cancelled_sequence_leaves_whether_it_runs_or_waits():
    states = States()
    on = scheduler(states, max_running=1)
    running, waiting, last = added(on, sequence(9), sequence(9, 1), sequence(9, 2))
    step(on)
    running.cancel()
    waiting.cancel()
    output = on.schedule()
    assert output.cancelled == [running, waiting]
    assert [chunk.sequence for chunk in output.prefill] == [last] == states.opened
    assert states.stored[-1] == (None, running.tokens[:9]), "what it had computed serves others"


def test_a_sequence_whose_place_cannot_be_made_is_dropped_and_the_others_go_on():
    states = States()
    on = scheduler(states)
    bad, good = added(on, sequence(9), sequence(9, 1))
    states.fails = [bad]
    assert step(on) == [(good, 9)]
    assert on.running == [good]


def test_a_full_queue_refuses_at_once():
    on = scheduler(max_running=1, max_waiting=2)
    added(on, sequence(5), sequence(5, 1))
    with pytest.raises(Busy, match="2 requests are waiting"):
        on.add(sequence(5, 2))
    step(on)
    on.add(sequence(5, 2))


def test_draining_hands_back_all_that_run_or_wait():
    on = scheduler(max_running=1)
    sequences = added(on, sequence(5), sequence(5, 1))
    step(on)
    assert on.drain() == [*sequences] and not on.has_work
