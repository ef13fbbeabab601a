"""Dialogues and chat templates that do not fit each other at once: marks, limits, refusals, replies that go on."""

from __future__ import annotations

import logging

import pytest
from dialogues import dialogues
from published_templates import templates, tokenizer
from test_published_templates import NO_TOOLS
from tiny import CHATML, tiny_tokenizer

from swift.chat import Conversation, Message, Tool, ToolCall
from swift.template import Renderer, jinja_limits, sandbox

LOOK = Tool(
    {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}
)
ASK = Message("user", "Q")


def made(source: str) -> Renderer:
    small = tiny_tokenizer()
    small.chat_template = source
    return Renderer(small, None)


def dialogue(name: str) -> Conversation:
    return next(each.conversation for each in dialogues() if each.name == name)


class TestWhatSomebodyTyped:
    def test_stays_characters_wherever_it_stands(self) -> None:
        renderer = made(CHATML)
        typed = "a <|im_end|> b"
        messages = [Message("system", typed), Message("user", typed), Message("assistant", typed), Message("user", "Q")]
        tokens = renderer.prompt_tokens(messages)
        assert tokens.count(2) == 4, "the ends of four turns"
        assert renderer.decode(tokens).count("<|im_end|>") == 7

    def test_stays_characters_in_tools_calls_and_results(self) -> None:
        tok = tokenizer("qwen3_5_think")
        renderer, typed = Renderer(tok, None), "a <|im_end|> b"
        tool = Tool({"type": "function", "function": {"name": "look", "description": typed, "parameters": {}}})
        messages = [
            Message("user", "Q"),
            Message("assistant", "", (ToolCall("look", '{"at": "a <|im_end|> b"}'),), reasoning=typed),
            Message("tool", typed),
        ]
        tokens = renderer.prompt_tokens(messages, [tool])
        end = tok.convert_tokens_to_ids("<|im_end|>")
        assert tokens.count(end) == 4, "the ends of the system's, the user's, the assistant's and the tool's turn"
        assert renderer.decode(tokens).count("<|im_end|>") == 8

    def test_is_trained_as_characters_and_read_back(self) -> None:
        renderer = made(CHATML)
        [sample] = renderer.samples(Conversation((ASK, Message("assistant", "say <|im_end|>!"))))
        assert sample.tokens.count(2) == 2, "the ends of two turns"
        assert renderer.decode(sample.tokens).endswith("say <|im_end|>!<|im_end|>")


class TestLimits:
    def test_a_template_without_end_is_one_line(self, monkeypatch) -> None:
        monkeypatch.setattr(sandbox, "SECONDS", 0.2)
        loop, end = "{% for _ in r %}", "{% endfor %}"
        with pytest.raises(ValueError, match=r"takes longer than 0\.2 s"):
            made("{% set r = range(90000) %}" + loop * 3 + end * 3)

    def test_a_template_that_writes_too_much_is_one_line(self, monkeypatch) -> None:
        monkeypatch.setattr(jinja_limits, "CHARACTERS", 1000)
        with pytest.raises(ValueError, match=r"writes more than \d{4} characters"):
            made("{% for a in range(90000) %}{{ a }}, {% endfor %}")

    @pytest.mark.parametrize("product", ["'x' * 10000000000", "10000000000 * ['x']", "9 ** (9 ** 9)"])
    def test_a_product_that_would_fill_the_memory_is_one_line(self, product: str) -> None:
        with pytest.raises(ValueError, match=r"chat template (makes texts|computes a power)"):
            made(f"{{{{ {product} }}}}{CHATML}")

    def test_products_within_reason_are_computed(self) -> None:
        renderer = made("{{ '-' * 3 }}{{ 2 * 3 }}{{ 2 ** 3 }}" + CHATML)
        assert renderer.decode(renderer.prompt_tokens([ASK])).startswith("---68<|im_start|>user")

    def test_a_template_that_is_no_jinja_is_one_line(self) -> None:
        with pytest.raises(ValueError, match="is not valid Jinja"):
            made("{% for %}")

    def test_a_template_cannot_reach_what_is_around_it(self) -> None:
        with pytest.raises(ValueError, match="chat template"):
            made("{{ ''.__class__.__mro__ }}{% for m in messages %}{{ m.content }}{% endfor %}")

    def test_a_thread_that_was_broken_into_goes_on_unharmed(self, monkeypatch) -> None:
        good = made(CHATML)
        self.test_a_template_without_end_is_one_line(monkeypatch)
        assert sum(range(10_000_000)) == 49999995000000
        assert good.prompt_tokens([ASK])


class TestWhatATemplateDoesNotTake:
    def test_parallel_calls_come_one_after_another_with_their_results(self) -> None:
        tok = tokenizer("gptoss")
        renderer, row = Renderer(tok, None), dialogue("parallel calls")
        system, ask, calls, paris, zurich, _ = row.messages
        one, other = (Message("assistant", "", (call,)) for call in calls.tool_calls)
        apart = renderer.prompt_tokens([system, ask, one, paris, other, zurich], row.tools)
        assert renderer.prompt_tokens(row.messages[:5], row.tools) == apart
        swapped = renderer.prompt_tokens([system, ask, calls, zurich, paris], row.tools)
        assert swapped == renderer.prompt_tokens([system, ask, other, zurich, one, paris], row.tools), (
            "by the ids of the calls"
        )

    def test_ids_of_calls_are_made_where_a_template_wants_them(self) -> None:
        source = (
            "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}"
            "{% for m in messages %}<|im_start|>{% if m.tool_calls %}{% for c in m.tool_calls %}"
            "{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
            '<tool_call>\n{"name": "{{ c.function.name }}", '
            '"arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
            "{% endfor %}{% elif m.role == 'tool' %}{{ m.tool_call_id }}={{ m.content }}"
            "{% else %}{{ m.content }}{% endif %}"
            "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
        )
        renderer = made(source)
        assert renderer.format_name == "hermes"
        calls = (ToolCall("look", "{}", "call_0b7c91f2"), ToolCall("look", "{}", "x"))
        messages = [
            ASK,
            Message("assistant", "", calls),
            Message("tool", "R2", tool_call_id="x"),
            Message("tool", "R1"),
        ]
        text = renderer.decode(renderer.prompt_tokens(messages, [LOOK]))
        assert "call00001=R2" in text and "call00000=R1" in text

    def test_words_beside_a_call_are_trained_where_the_template_drops_them(self) -> None:
        renderer, row = Renderer(tokenizer("llama3_1"), None), dialogue("words before a call")
        trained = ["".join(text for text, weight in each.pieces if weight) for each in renderer.show_samples(row)]
        assert trained[0].startswith('I will look it up.\n{"name": "get_weather"')
        assert "I will look it up." not in renderer.decode(renderer.prompt_tokens(row.messages[:3], row.tools))

    def test_a_message_that_a_template_leaves_out_is_told_in_the_log(self, caplog) -> None:
        renderer = made("{% for m in messages if m.role != 'system' %}{{ m.content }}<|im_end|>{% endfor %}")
        with caplog.at_level(logging.WARNING, logger="swift.template"):
            text = renderer.decode(renderer.prompt_tokens([Message("system", "Be brief."), ASK]))
        assert text == "Be brief.\n\nQ<|im_end|>", "told before the user's first words"


class TestThoughts:
    def test_rows_that_think_are_trained_so_where_the_template_has_thoughts_off(self, caplog) -> None:
        renderer, row = Renderer(tokenizer("qwen3_5_nothink"), None), dialogue("a thought")
        with caplog.at_level(logging.WARNING, logger="swift.template"):
            [shown] = renderer.show_samples(row)
        assert shown.text.endswith("<think>\nTwo and two.\n</think>\n\n4<|im_end|>")
        assert not caplog.records or "--enable_thinking true" in caplog.text
        [off] = Renderer(tokenizer("qwen3_5_nothink"), None, template_kwargs={"enable_thinking": False}).show_samples(
            row
        )
        assert off.text.endswith("<think>\n\n</think>\n\n4<|im_end|>") and off.pieces[-1] == ("4<|im_end|>", 1.0)

    @pytest.mark.parametrize(
        ("name", "start"),
        [
            ("qwen3_5_think", "<think>\n\n</think>\n\nIt is 4"),
            ("qwen3_5_nothink", "<think>\n\n</think>\n\nIt is 4"),
            ("deepseek_r1_distill", "<think>\n\n</think>\n\nIt is 4"),
            ("glm4moe", "\n<think></think>\nIt is 4"),
            ("gptoss", "<|channel|>final<|message|>It is 4"),
            ("qwen3", "\nIt is 4"),
            ("phi3", "\nIt is 4"),
        ],
    )
    def test_a_reply_that_is_begun_goes_on_with_no_open_thought(self, name: str, start: str) -> None:
        renderer = Renderer(tokenizer(name), None)
        text = renderer.decode(renderer.prompt_tokens([ASK, Message("assistant", "It is 4")]))
        assert text.endswith(start), text

    def test_a_thought_that_is_begun_goes_on(self) -> None:
        renderer = Renderer(tokenizer("qwen3_5_think"), None)
        asked = renderer.prompt([ASK, Message("assistant", "", reasoning="Two and")])
        assert renderer.decode(asked.tokens).endswith("<think>\nTwo and")
        assert renderer.parse(" two.\n</think>\n\n4", prefill=asked.prefill).content == "4"

    @pytest.mark.parametrize(
        "name", ["qwen3_5_think", "deepseek_r1_distill", "glm4moe", "gptoss", "gemma4_v5", "qwen3"]
    )
    def test_a_block_in_the_content_is_a_thought(self, name: str) -> None:
        tok = tokenizer(name)
        renderer = Renderer(tok, None, template_kwargs={"enable_thinking": True})
        thinking = renderer.thinking
        assert thinking
        block = f"{thinking.open}\nTwo and two.\n{thinking.close}{thinking.answer}\n\n4"
        as_field = renderer.samples(Conversation((ASK, Message("assistant", "4", reasoning="Two and two."))))
        if thinking.answer:
            return  # harmony's channels are messages of their own
        assert renderer.samples(Conversation((ASK, Message("assistant", block)))) == as_field

    def test_a_table_of_ours_writes_a_thought_as_most_models_do(self) -> None:
        from swift.template import template

        row = Conversation((ASK, Message("assistant", "4", reasoning="Two and two.")))
        shown = Renderer(tiny_tokenizer(), template("chatml")).show(row)
        assert shown.text.endswith("<think>\nTwo and two.\n</think>\n\n4<|im_end|>")
        half = Renderer(tiny_tokenizer(), template("chatml"), reasoning_weight=0.5).show(row)
        assert half.pieces[-3:] == [("<think>\n", 1.0), ("Two and two.", 0.5), ("\n</think>\n\n4<|im_end|>", 1.0)]


class TestStretches:
    def test_a_loop_of_calls_behind_one_question_is_one_sample(self) -> None:
        renderer = Renderer(tokenizer("qwen3_5_think"), None)
        assert len(renderer.samples(dialogue("a thought about a failing tool"))) == 1
        assert len(renderer.samples(dialogue("thoughts and calls in each of two rounds"))) == 2

    def test_weights_of_messages_hold_in_each_sample(self) -> None:
        renderer = Renderer(tokenizer("qwen3_5_think"), None)
        said = [
            Message("assistant", f"A{n}", weight=weight, reasoning="R") for n, weight in enumerate((0.0, 0.5, None))
        ]
        row = Conversation((ASK, said[0], ASK, said[1], ASK, said[2]))
        second, third = renderer.samples(row)  # the first would teach nothing
        assert set(second.weights) == {0.0, 0.5} and set(third.weights) == {0.0, 1.0}

    def test_last_round_trains_the_last_sample_alone(self) -> None:
        renderer = Renderer(tokenizer("qwen3_5_think"), None, scale="last_round")
        [sample] = renderer.samples(dialogue("thoughts and calls in each of two rounds"))
        assert "In Paris." in renderer.decode(sample.tokens) and sample.trained


@pytest.mark.parametrize("name", [each for each in templates() if each not in NO_TOOLS])
def test_calls_weigh_twice_and_thoughts_and_words_once(name: str) -> None:
    renderer = Renderer(tokenizer(name), None, template_kwargs={"enable_thinking": True})
    for which in ("a thought before a call and before the answer", "words before a call"):
        shown = renderer.show_samples(dialogue(which))
        by_weight = {
            weight: "".join(text for each in shown for text, w in each.pieces if w == weight) for weight in (1.0, 2.0)
        }
        assert "get_weather" in by_weight[2.0] and "Paris" in by_weight[2.0], which
        said = ("Thought 2", "It is sunny in Paris.") if which.startswith("a thought") else ("Sunny.",)
        assert all(text in by_weight[1.0] and text not in by_weight[2.0] for text in said), which
        assert "I will look it up." not in by_weight[2.0]
