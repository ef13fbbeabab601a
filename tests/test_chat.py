"""Messages -> deltas, with a scripted engine in place of a model, and over HTTP with a scripted server."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tiny import tiny_tokenizer

from swift.agent import ReasoningTags
from swift.chat import Delta, Message, Tool, ToolCall, Usage
from swift.engine.interface import TokenOutput
from swift.engine.sampling import SamplingParams
from swift.infer.chat import collect
from swift.infer.local_chat import LocalChat
from swift.infer.remote_chat import RemoteChat, connect
from swift.template import Renderer, Template, template
from swift.template.render import Prompt

TOKENIZER = tiny_tokenizer()
WEATHER = Tool({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}})
ASK = (Message("user", "Rain?"),)
END = "<|im_end|>"


class ScriptedEngine:
    """Answers each request with the next text of its script, one token per step; records its requests."""

    def __init__(self, *script, limit=None):
        self.script, self.limit = list(script), limit
        self.prompts, self.params, self.open = [], [], 0

    def submit(self, tokens, params, inputs=None):
        self.prompts.append(TOKENIZER.decode(tokens))
        self.params.append(params)
        return self.steps(TOKENIZER.encode(self.script.pop(0), add_special_tokens=False)[: self.limit])

    def steps(self, tokens):
        self.open += 1
        try:
            for place, token in enumerate(tokens):
                last = "length" if place + 1 == self.limit else None
                yield TokenOutput(token, -0.5, "stop" if token == TOKENIZER.eos_token_id else last)
        finally:
            self.open -= 1


def local(*script, tool_format="react_en", limit=None):
    engine = ScriptedEngine(*script, limit=limit)
    return LocalChat(engine, Renderer(TOKENIZER, template("qwen"), tool_format)), engine


def test_a_reply_is_streamed_and_ends_with_its_usage():
    chat, engine = local("Yes, 雨." + END)
    deltas = list(chat(ASK))
    assert [delta.text for delta in deltas] == [*"Yes, ", "雨", ".", ""]
    assert deltas[-1].finish == "stop"
    assert deltas[-1].usage == Usage(len(TOKENIZER.encode(engine.prompts[0])), len("Yes, .") + 3 + 1)
    assert engine.open == 0


def test_a_reply_at_its_token_limit_finishes_with_length():
    chat, _ = local("Yes, it rains" + END, limit=3)
    reply = collect(chat(ASK))
    assert (reply.message.content, reply.finish) == ("Yes", "length")


def test_a_stop_string_is_cut_one_of_a_tool_format_stays_and_the_caller_may_override_both():
    said = "Action: a\nObservation: b" + END

    def reply(*stop, include=None):
        chat, engine = local(said)
        got = collect(chat(ASK, (), SamplingParams(stop=stop, include_stop=include)))
        assert engine.open == 0, "the engine need not go on"
        return got.message.content

    assert reply("\n") == "Action: a"
    assert reply("\n", include=True) == "Action: a\n"
    assert reply("Observation:") == "Action: a\nObservation:"
    assert reply("Observation") == "Action: a\nObservation:"
    assert reply("Observation:", include=False) == "Action: a\n"
    assert reply() == "Action: a\nObservation: b", "nobody asked to stop there"


def test_a_stop_string_that_the_last_token_completes_finishes_with_stop():
    chat, _ = local("ab!", limit=3)
    assert collect(chat(ASK, (), SamplingParams(stop=("!",)))).finish == "stop"


def test_a_trailing_assistant_message_is_continued():
    chat, engine = local(" cold." + END)
    reply = collect(chat((*ASK, Message("assistant", "It is"))))
    assert reply.message.content == " cold."
    assert engine.prompts[0].endswith("<|im_start|>assistant\nIt is")


def test_the_stop_string_of_a_template_ends_the_reply_and_is_cut():
    plain = Template("plain", prompt=("Q: {{QUERY}}\nA:",), suffix=("\nQ:",), chat_sep=("\nQ:",))
    engine = ScriptedEngine("Yes.\nQ: next")
    reply = collect(LocalChat(engine, Renderer(TOKENIZER, plain))(ASK, (), SamplingParams(include_stop=True)))
    assert (reply.message.content, reply.finish) == ("Yes.", "stop")


CALLED = {
    "react_en": 'Thought: I look.\nAction: weather\nAction Input: {"city": "厦门"}\nObservation: sunny',
    "hermes": 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "厦门"}}\n</tool_call>' + END,
}


@pytest.mark.parametrize("tool_format", CALLED)
def test_with_tools_a_call_becomes_a_tool_call_and_is_not_content(tool_format):
    chat, engine = local(CALLED[tool_format], tool_format=tool_format)
    deltas = list(chat(ASK, (WEATHER,)))
    reply = collect(iter(deltas))
    said = reply.message
    assert (said.content, said.reasoning) == (("", "I look.") if tool_format == "react_en" else ("I look.", ""))
    (call,) = reply.message.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "厦门"})
    assert call.id.startswith("call_")
    assert reply.finish == "tool_calls"
    assert "weather" in engine.prompts[0], "the tools are on offer"
    assert len(deltas) > len("I look."), "what comes before the call is not held back"


@pytest.mark.parametrize("tool_format", CALLED)
def test_a_call_and_its_result_are_rendered_as_the_model_wrote_them(tool_format):
    chat, engine = local(CALLED[tool_format], "Sunny." + END, tool_format=tool_format)
    called = collect(chat(ASK, (WEATHER,))).message
    collect(chat((*ASK, called, Message("tool", "sunny")), (WEATHER,)))
    written = CALLED[tool_format].removesuffix(END).removesuffix(" sunny")
    assert engine.prompts[0] + written in engine.prompts[1]


def test_with_tools_a_reply_without_a_call_is_content():
    chat, _ = local("Final Answer: it rains.\n" + END)
    reply = collect(chat(ASK, (WEATHER,)))
    assert (reply.message, reply.finish) == (Message("assistant", "it rains.\n"), "stop")


def test_reasoning_and_answer_are_streamed_apart():
    said = "Thought: I now know the final answer\nFinal Answer: It rains."
    chat, _ = local(said + END)
    deltas = list(chat(ASK, (WEATHER,)))
    assert "".join(delta.reasoning for delta in deltas) == "I now know the final answer"
    assert "".join(delta.text for delta in deltas) == "It rains."
    assert not any(delta.reasoning and delta.text for delta in deltas)
    assert len(deltas) > 20


def test_a_message_that_comes_back_is_rendered_with_labels_with_or_without_its_reasoning():
    chat, engine = local(END, END)
    answered = Message("assistant", "It rains.", reasoning="I know")
    for message in (answered, replace(answered, reasoning="")):
        collect(chat((*ASK, message, *ASK), (WEATHER,)))
    assert "assistant\nThought: I know\nFinal Answer: It rains.<|im_end|>" in engine.prompts[0]
    assert "assistant\nFinal Answer: It rains.<|im_end|>" in engine.prompts[1]


def test_raw_replies_keep_their_reasoning_in_the_content():
    said = "Thought: I know\nFinal Answer: It rains."
    engine = ScriptedEngine(said + END)
    chat = LocalChat(engine, Renderer(TOKENIZER, template("qwen"), "react_en"), raw=True)
    assert collect(chat(ASK, (WEATHER,))).message == Message("assistant", said)


def test_without_tools_a_reply_is_what_the_model_wrote():
    said = "Thought: I know\nFinal Answer: It rains."
    chat, _ = local(said + END)
    assert collect(chat(ASK)).message == Message("assistant", said)


def test_a_truncated_call_is_streamed_as_far_as_it_came():
    said = 'Thought: x\nAction: weather\nAction Input: {"city": '
    chat, _ = local(said + "......", limit=len(said))
    reply = collect(chat(ASK, (WEATHER,)))
    assert (reply.message.reasoning, reply.message.content, reply.finish) == ("x", "", "length")
    assert [(call.name, call.arguments) for call in reply.message.tool_calls] == [("weather", '{"city": ')]


def test_without_tools_a_call_is_plain_text_shown_at_once():
    chat, _ = local("Action: weather\nAction Input: {}\nObservation: x")
    deltas = list(chat(ASK, (), SamplingParams(stop=("Observation:",))))
    assert "".join(delta.text for delta in deltas) == "Action: weather\nAction Input: {}\nObservation:"
    assert deltas[0].text == "A"
    assert all(delta.tool_call is None for delta in deltas)


SAYS_OBSERVATION = '{"text": "Observation: it rains", "n": 1}'


def test_a_call_whose_argument_has_the_stop_string_of_its_format_is_read_whole():
    said = f"Thought: t\nAction: weather\nAction Input: {SAYS_OBSERVATION}\nObservation:"
    for params in (SamplingParams(), SamplingParams(stop=("Observation",)), SamplingParams(stop=("rains",))):
        chat, engine = local(f"{said} made up" + END)
        reply = collect(chat(ASK, (WEATHER,), params))
        assert engine.open == 0
        if params.stop == ("rains",):
            assert reply.message.tool_calls[0].arguments == '{"text": "Observation: it ', "an own stop word ends it"
            continue
        assert reply.finish == "tool_calls"
        assert [(call.name, call.arguments) for call in reply.message.tool_calls] == [("weather", SAYS_OBSERVATION)]


def test_a_stop_word_of_a_format_follows_its_rule_where_no_tools_are_offered():
    said = f"Action: weather\nAction Input: {SAYS_OBSERVATION}\n"
    for include, kept in ((None, "Observation:"), (False, "")):
        params = SamplingParams(stop=("Observation:",), include_stop=include)
        chat, _ = local(f"{said}Observation: made up" + END)
        assert collect(chat(ASK, (), params)).message.content == said + kept
        chat, _ = local(f"{said}Observation: made up" + END)
        assert collect(chat.complete("Question: Rain?\n", params)).message.content == said + kept
    at = said.index("Observation")
    chat, _ = local(f"{said[at:]}Observation: made up" + END)
    begun = f"Question: Rain?\n{said[:at]}"
    for prompt in (begun, TOKENIZER.encode(begun)):
        again, _ = local(f"{said[at:]}Observation: made up" + END)
        reply = collect(again.complete(prompt, SamplingParams(stop=("Observation",))))
        assert reply.message.content == f"{said[at:]}Observation:"
    messages = (*ASK, Message("assistant", said[:at]))
    reply = collect(chat(messages, (), SamplingParams(stop=("Observation",))))
    assert reply.message.content == f"{said[at:]}Observation:"


def test_a_call_cut_by_the_token_limit_behind_the_stop_string_in_its_argument_finishes_with_length():
    said = 'Action: weather\nAction Input: {"text": "Observation: it'
    chat, _ = local(said + "......", limit=len(said))
    reply = collect(chat(ASK, (WEATHER,)))
    assert reply.finish == "length"
    assert [call.arguments for call in reply.message.tool_calls] == ['{"text": "Observation: it']


def test_a_call_that_forgets_the_closing_quote_is_stopped_at_the_next_line():
    chat, engine = local('Action: weather\nAction Input: {"text": "it rains}\nObservation: made up\nThought: no' + END)
    reply = collect(chat(ASK, (WEATHER,)))
    assert engine.open == 0
    assert "made up" not in reply.message.content + str(reply.message.tool_calls)


def test_log_probabilities_come_on_request_for_every_token_shown():
    chat, _ = local("雨!" + END)
    deltas = list(chat(ASK, (), SamplingParams(logprobs=True)))
    assert [len(delta.logprobs) for delta in deltas] == [3, 1, 0]
    chat, _ = local(CALLED["hermes"], tool_format="hermes")
    shown = [pair for delta in chat(ASK, (WEATHER,), SamplingParams(logprobs=True)) for pair in delta.logprobs]
    assert (
        TOKENIZER.decode([each.token for each in shown])
        == b"".join(each.data for each in shown).decode()
        == CALLED["hermes"].removesuffix(END)
    )
    chat, engine = local("a" + END)
    engine.steps = lambda tokens: (
        TokenOutput(token, -0.5, "length", ((token, -0.5), (2, -1.0))) for token in tokens[:1]
    )
    (first, *_) = chat(ASK, (), SamplingParams(logprobs=True, top_logprobs=2))
    assert [(each.data, each.logprob) for each in first.logprobs[0].top] == [(b"a", -0.5), (END.encode(), -1.0)]
    chat, _ = local("雨!" + END)
    assert not any(delta.logprobs for delta in chat(ASK))


def test_closing_a_reply_closes_the_engines_stream():
    for tools in ((), (WEATHER,)):
        chat, engine = local("a long reply" + END)
        deltas = chat(ASK, tools)
        next(deltas)
        assert engine.open == 1
        deltas.close()
        assert engine.open == 0


def test_a_request_that_cannot_be_answered_raises_before_the_first_delta():
    chat, _ = local()
    with pytest.raises(ValueError, match="no messages"):
        chat(())


# Reasoning in tags

THINK = ReasoningTags("<think>", "</think>")
HARMONY = ReasoningTags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant", "<|channel|>final<|message|>")


def thinker(*script, prefill="", tool_format="hermes", marks=THINK, limit=None, raw=False):
    """A chat with a model whose template opens replies with `prefill`, and the template variables it was given."""
    engine = ScriptedEngine(*script, limit=limit)
    renderer = Renderer(TOKENIZER, template("qwen"), tool_format)
    renderer.thinking = marks
    asked, ask = [], renderer.prompt

    def opened(messages, tools=(), template_kwargs=None):
        asked.append(template_kwargs)
        tokens, _ = ask(messages, tools)
        return Prompt([*tokens, *TOKENIZER.encode(prefill, add_special_tokens=False)], prefill)

    renderer.prompt = opened
    return LocalChat(engine, renderer, raw), engine, asked


@pytest.mark.parametrize("tools", [(), (WEATHER,)])
@pytest.mark.parametrize(
    ("prefill", "said"),
    [
        ("", "<think>\n雨 or sun?\n</think>\n\nIt rains."),
        ("<think>\n", "雨 or sun?\n</think>\n\nIt rains."),
        ("\n<think></think>", "\nIt rains."),
    ],
)
def test_tagged_reasoning_is_streamed_with_and_without_tools(tools, prefill, said):
    chat, engine, _ = thinker(said + END, prefill=prefill)
    deltas = list(chat(ASK, tools))
    reasoning = "雨 or sun?" if "雨" in said else ""
    assert collect(iter(deltas)).message == Message("assistant", "It rains.", reasoning=reasoning)
    assert engine.prompts[0].endswith("assistant\n" + prefill)
    assert not any(delta.reasoning and delta.text for delta in deltas)
    assert len(deltas) >= len((reasoning + "It rains.").replace(" ", "")), "only white space and marks wait"
    assert deltas[-1].finish == "stop" and deltas[-1].usage.completion_tokens > 0


@pytest.mark.parametrize("tools", [(), (WEATHER,)])
def test_a_reply_truncated_within_its_reasoning_has_no_content(tools):
    chat, _, _ = thinker("It rains", prefill="<think>\n", limit=4)
    reply = collect(chat(ASK, tools))
    assert (reply.message, reply.finish) == (Message("assistant", "", reasoning="It r"), "length")


@pytest.mark.parametrize("tool_format", CALLED)
def test_a_call_after_reasoning_is_parsed_and_one_within_it_is_not(tool_format):
    call = CALLED[tool_format].removesuffix(END).removesuffix(" sunny")
    chat, _, _ = thinker(
        f"Shall I?\n{call.removesuffix('Observation:')}\n</think>\n\n{CALLED[tool_format]}",
        prefill="<think>\n",
        tool_format=tool_format,
    )
    reply = collect(chat(ASK, (WEATHER,)))
    assert [call.name for call in reply.message.tool_calls] == ["weather"]
    assert reply.message.reasoning.startswith("Shall I?")
    assert reply.message.reasoning.endswith("I look." if tool_format == "react_en" else "</tool_call>")
    assert reply.message.content == ("" if tool_format == "react_en" else "I look.")
    assert reply.finish == "tool_calls"


def test_stop_strings_end_content_and_not_reasoning():
    thought = "I wait for the Observation: then."
    said = f"{thought}</think>\n\nAction: weather\nAction Input: {{}}\nObservation: sunny"
    for tools, params in (((WEATHER,), SamplingParams()), ((), SamplingParams(stop=("Observation",)))):
        chat, _, _ = thinker(said, prefill="<think>\n", tool_format="react_en")
        reply = collect(chat(ASK, tools, params))
        assert reply.message.reasoning == thought
        assert [call.name for call in reply.message.tool_calls] == ["weather"] * len(tools)
        assert tools or reply.message.content.endswith("Action Input: {}\nObservation:")


def test_the_channels_of_a_harmony_reply_are_told_apart():
    said = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It rains."
    )
    chat, _, _ = thinker(said + END, marks=HARMONY)
    assert collect(chat(ASK)).message == Message("assistant", "I look.\nIt rains.", reasoning="Hm.")


def test_tagged_and_labelled_reasoning_are_joined_by_a_line_break():
    chat, _, _ = thinker("<think>a</think>\n\nThought: b\nFinal Answer: c" + END, tool_format="react_en")
    assert collect(chat(ASK, (WEATHER,))).message == Message("assistant", "c", reasoning="a\nb")


def test_a_raw_reply_keeps_its_reasoning_tags():
    said = "It rains?\n</think>\n\nYes."
    for tools in ((), (WEATHER,)):
        chat, _, _ = thinker(said + END, prefill="<think>\n", raw=True)
        assert collect(chat(ASK, tools)).message == Message("assistant", said)


def test_a_prefilled_reply_continues_in_its_content():
    chat, _, _ = thinker(" cold." + END, prefill="<think>\n\n</think>\n\nIt is")
    assert collect(chat(ASK)).message == Message("assistant", " cold.")


def test_variables_reach_the_template():
    chat, _, asked = thinker("a" + END, "b" + END)
    collect(chat(ASK, template_kwargs={"enable_thinking": False}))
    collect(chat(ASK))
    assert asked == [{"enable_thinking": False}, None]


def test_log_probabilities_include_reasoning():
    chat, _, _ = thinker("a</think>b" + END, prefill="<think>\n")
    shown = [each for delta in chat(ASK, (), SamplingParams(logprobs=True)) for each in delta.logprobs]
    assert TOKENIZER.decode([each.token for each in shown]) == "a</think>b"


# RemoteChat


class ScriptedServer:
    """Speaks just enough HTTP: a model list, and a stream of the given chunks."""

    def __init__(self, chunks, status=200):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(200, json.dumps({"object": "list", "data": [{"id": "first", "object": "model"}]}))

            def do_POST(self):
                asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if status != 200:
                    self.answer(status, json.dumps({"error": {"message": "the prompt is too long"}}))
                    return
                lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
                self.answer(200, "".join([*lines, "data: [DONE]\n\n"]), "text/event-stream")

            def answer(self, code, body, kind="application/json"):
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def chunk(delta=None, finish=None, usage=None):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": choices,
        "usage": usage,
    }


def called(**function):
    return {"tool_calls": [{"index": 0, "id": "c1" if "name" in function else None, "function": function}]}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_the_reasoning_of_a_server_is_read_and_sent_back(field):
    with ScriptedServer([chunk({field: "hm"}), chunk({"content": "yes"}), chunk({}, "stop")]) as it:
        reply = collect(RemoteChat(it.url, "m")(ASK))
        assert reply.message == Message("assistant", "yes", reasoning="hm")
        collect(RemoteChat(it.url, "m")((*ASK, reply.message, *ASK)))
        assert it.asked[1]["messages"][1] == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}


def test_a_server_answers_in_the_same_deltas():
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    with ScriptedServer(
        [chunk({"content": "Ye"}), chunk({"content": "s"}), chunk({}, "stop"), chunk(usage=usage)]
    ) as it:
        deltas = list(connect(it.url)(ASK, (), SamplingParams(stop=("\n",), top_k=5, seed=1, max_tokens=9)))
    assert deltas == [Delta("Ye"), Delta("s"), Delta(finish="stop", usage=Usage(7, 2))]
    (asked,) = it.asked
    assert asked["messages"] == [{"role": "user", "content": "Rain?"}]
    assert {name: asked[name] for name in ("model", "stop", "top_k", "seed", "max_tokens")} == {
        "model": "first",
        "stop": ["\n"],
        "top_k": 5,
        "seed": 1,
        "max_tokens": 9,
    }


def test_a_server_gets_variables_for_its_template():
    with ScriptedServer([chunk({"content": "yes"}), chunk({}, "stop")]) as it:
        collect(RemoteChat(it.url, "m")(ASK, (), SamplingParams(top_k=5), {"enable_thinking": False}))
        collect(RemoteChat(it.url, "m")(ASK))
    assert it.asked[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert it.asked[0]["top_k"] == 5
    assert "chat_template_kwargs" not in it.asked[1]


def test_a_server_gets_the_tools_and_its_calls_are_joined():
    parts = [called(name="weather", arguments=""), called(arguments='{"a":'), called(arguments=" 1}")]
    before = Message("assistant", "", (ToolCall("weather", "{}", "c0"),)), Message("tool", "sunny", tool_call_id="c0")
    with ScriptedServer([*map(chunk, parts), chunk({}, "tool_calls")]) as it:
        reply = collect(RemoteChat(it.url, "m")((*ASK, *before), (WEATHER,)))
    assert reply.message.tool_calls == (ToolCall("weather", '{"a": 1}', "c1"),)
    assert reply.finish == "tool_calls"
    (asked,) = it.asked
    assert asked["tools"] == [WEATHER.spec]
    assert asked["messages"][1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert asked["messages"][2] == {"role": "tool", "content": "sunny", "tool_call_id": "c0"}


def test_an_error_of_a_server_has_its_address_and_message():
    with ScriptedServer([], status=400) as it, pytest.raises(OSError, match=r"127.0.0.1.*the prompt is too long"):
        list(RemoteChat(it.url, "m")(ASK))
