"""A chat template is a program that somebody else wrote: whatever it does, it ends soon, with one line and no harm."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tiny import CHATML, tiny_model_folder, tiny_tokenizer

from swift import cli
from swift.infer.local_chat import LocalChat
from swift.serve.server import create_app
from swift.template import Renderer
from swift.template.jinja_limits import TemplateLimitError
from swift.template.sandbox import ChatTemplate

ASK = {"role": "user", "content": "hi"}


def repeated(start: str, step: str) -> str:
    """A template that applies `step` to `start` a hundred thousand times."""
    each = "{% for i in range(100000) %}{% set ns.x = " + step + " %}{% endfor %}"
    return "{% set ns = namespace(x=" + start + ") %}" + each + "{{ ns.x | string | length }}"


MILLION = "{% set ns = namespace(x='a') %}{% for i in range(20) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
LARGE = "makes texts or lists of more than"
WIDE = "pads a value to more than 1000 characters"
HIDDEN = "reads '__class__' of a str, which the sandbox hides"
ENDLESS = "takes longer than 0.7 s"
DEEP = "is nested too deep"
HOSTILE = {
    # what is outside of the template
    "{{ ''.__class__ }}": HIDDEN,
    "{{ ''['__class__'] }}": HIDDEN,
    "{{ '' | attr('__class__') }}": HIDDEN,
    "{{ '{0.__class__}'.format('') }}": HIDDEN,
    "{{ [''] | map(attribute='__class__') | list }}": HIDDEN,
    "{{ messages.__class__.__mro__ }}": "reads '__class__' of a list",
    "\n{% include 'x' %}": "needs another template, and has none ('include', line 2)",
    "{% import 'x' as y %}": "('import', line 1)",
    "{% from 'x' import y %}": "('import', line 1)",
    "{% extends 'x' %}": "('extends', line 1)",
    # time
    "\n{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}": f"{ENDLESS} (line 2)",
    "{{ lipsum(min=10**8, max=10**9) }}": ENDLESS,
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself without end",
    "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}": "calls itself without end",
    # memory, at once
    "a\n{{ 'a' * 10**9 }}": f"{LARGE} 1049016 characters (line 2)",
    "{{ 10**9 * ['a'] }}": LARGE,
    "{{ 9 ** (9 ** 9) }}": "computes a power of more than 65536 bits",
    "{{ 'a' | indent(10**9, first=true) }}": LARGE,
    "{{ 'a' | center(10**9) }}": LARGE,
    "{{ ['a'] | map('center', 10**9) | list }}": LARGE,
    "{% filter center(10**9) %}a{% endfilter %}": LARGE,
    "{{ 'a'.ljust(10**9) }}": LARGE,
    "{{ '\t'.expandtabs(tabsize=10**9) }}": LARGE,
    "{{ ('a' | safe).center(10**9) }}": LARGE,
    "{{ ('a' | attr('center'))(10**9) }}": LARGE,
    "{{ 'a'.encode().center(10**9) }}": LARGE,
    "{{ (5).to_bytes(length=10**9, byteorder='big') }}": LARGE,
    "{{ '%1000000000d' % 1 }}": WIDE,
    "{{ '%*d' % (10**9, 1) }}": "formats with a width of '*'",
    "{{ '%.1000000000f' | format(1.0) }}": WIDE,
    "{{ '{:1000000000d}'.format(1) }}": WIDE,
    "{{ '{:{}}'.format(1, 10**9) }}": WIDE,
    "{{ '{a:>1000000000}'.format_map({'a': 1}) }}": WIDE,
    "{{ [1] | tojson(indent=10**9) }}": "indents JSON by more than 1000",
    "{{ [1] | batch(10**9, 1) | list }}": LARGE,
    "{{ 5 | round(-10**9) }}": "rounds to more than 1000 digits",
    "{{ ([[1] * 100] * 1000) | sum(start=[]) | length }}": LARGE,
    f"{MILLION}{{{{ ns.x.join(ns.x) }}}}": LARGE,
    f"{MILLION}{{{{ ns.x | replace('a', ns.x) }}}}": LARGE,
    f"{MILLION}{{{{ ('a' * 30).translate({{97: ns.x}}) }}}}": LARGE,
    f"{MILLION}{{{{ ns.x | wordwrap(2) }}}}": "wraps or searches a text of more than 65536",
    # memory, in steps
    "{% for a in range(90000) %}{% for b in range(90000) %}0123456789{% endfor %}{% endfor %}": "writes more than",
    "{% set c %}{% for a in range(9000) %}{% for b in range(90) %}01234567{% endfor %}{% endfor %}{% endset %}": LARGE,
    repeated("'a'", "ns.x + ns.x"): LARGE,
    repeated("'a'", "ns.x + '-' + ns.x"): LARGE,
    repeated("'a'", "ns.x ~ ns.x"): LARGE,
    repeated("'a'", "[ns.x, ns.x] | join"): LARGE,
    repeated("'\"'", "ns.x | tojson"): LARGE,
    repeated("7", "ns.x * ns.x"): "computes a number of more than 65536 bits",
    repeated("[1]", "ns.x + ns.x"): LARGE,
    # values whose text is exponentially longer than they are
    repeated("[1]", "[ns.x, ns.x]"): LARGE,
    repeated("(1,)", "(ns.x, ns.x)"): LARGE,
    repeated("{}", "{'a': ns.x, 'b': ns.x}"): LARGE,
    repeated("{}", "dict(a=ns.x, b=ns.x)"): LARGE,
    repeated("{}", "{}.fromkeys(range(9), ns.x)"): LARGE,
    repeated("(1,)", "cycler(ns.x, ns.x).items"): LARGE,
    "{% set ns = namespace(x=[1]) %}{% macro f() %}{% set ns.x = varargs %}{% endmacro %}"
    "{% for i in range(99) %}{{ f(ns.x, ns.x) }}{% endfor %}{{ ns.x }}": LARGE,
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% for row in [1] | batch(3, ns.x) %}"
    "{% set ns.x = row %}{% endfor %}{% endfor %}{{ ns.x }}": LARGE,
    # the compiler
    "{{ 'a' | center(10**6) " + "~ 'a' | center(10**6) " * 200 + "}}": LARGE,
    "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}": DEEP,
    "{% for a in b %}" * 40 + "{% endfor %}" * 40: DEEP,
    "{{ a }}" * 200_000: "is longer than 131072 characters",
}


@pytest.mark.parametrize("source", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_template_is_refused_with_one_line_soon_and_without_memory(source: str) -> None:
    began, most = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateLimitError) as refused:
        ChatTemplate(source, {}).render([ASK])
    reasons = (HOSTILE[source], ENDLESS) if HOSTILE[source] == LARGE else (HOSTILE[source],)  # on a slow machine
    assert any(reason in str(refused.value) for reason in reasons)
    assert str(refused.value).startswith("the tokenizer's chat template ") and "\n" not in str(refused.value)
    assert time.thread_time() - began < 2, "CPU time of this thread, which a busy machine does not lengthen"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 1 << 19, "KiB on Linux"


@pytest.mark.parametrize("value", [5, ["a"], {"default": "a", "tool_use": 5}])
def test_a_template_that_is_no_text_is_refused(value: object) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = value
    with pytest.raises(ValueError, match="the tokenizer's chat template is no text"):
        Renderer(tokenizer, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("hostile", "what"), [("{{ 'a' * 10**9 }}", LARGE), ("{{ ''.__class__ }}", HIDDEN), ("{% include 'x' %}", "needs")]
)
def test_a_model_folder_with_a_hostile_template_is_one_line_and_exit_code_2(
    folder: Path, where: str, hostile: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML + hostile
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder, save_jinja_files=where.endswith("jinja"))
    assert "10**9" not in hostile or "10**9" in (folder / where).read_text()
    capsys.readouterr()
    assert cli.main(["infer", "--model_id_or_path", str(folder)]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("swift: error: ") and err.count("\n") == 1 and what in err


def test_a_template_that_is_hostile_only_to_some_dialogues_is_a_400_and_the_server_lives() -> None:
    """The server's chat_template_kwargs and messages reach the template; neither makes it exceed its limits."""
    times = "{{ 'a' * (times or 0) }}"
    loop = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    loop = "{% if messages[0].content == 'loop' %}" + loop + "{% endif %}"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML + times + loop
    renderer = Renderer(tokenizer, None)

    class Engine:
        context = None

        def submit(self, *_: object) -> object:
            raise AssertionError("a prompt was made")

        def close(self) -> None: ...

    http = TestClient(create_app(LocalChat(Engine(), renderer), "tiny"))
    for text, given, what in [
        ("hi", {"times": 10**9}, LARGE),
        ("hi", {"times": [1]}, "rejects this dialogue"),
        ("hi", {"range": "x", "namespace": 3, "times": 10**12}, LARGE),
        ("loop", {}, "takes longer than 0.7 s"),
    ]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "chat_template_kwargs": given}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400 and what in answer.json()["error"]["message"], answer.text
    assert http.get("/health").status_code == 200


def test_a_large_dialogue_may_make_larger_texts() -> None:
    """Limits grow with what is given: a million characters of messages are rendered, joined and copied."""
    source = "{% set all %}{% for m in messages %}{{ m.content | trim }}{% endfor %}{% endset %}{{ all ~ '' }}{{ all }}"
    messages = [{"role": "user", "content": "0123456789" * 10} for _ in range(20_000)]
    assert len(ChatTemplate(source, {}).render(messages)) == 2 * 2_000_000


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'a' + m.role + 'b' + m.content", "auserbhi"),
        ("'%5.1f|%s' % (1.25, m)", "  1.2|{'role': 'user', 'content': 'hi'}"),
        ("'{:>5}|{}'.format(1, m.role)", "    1|user"),
        ("[1, 2] + [3]", "[1, 2, 3]"),
        ("[[1], [2]] | sum(start=[])", "[1, 2]"),
        ("[1, 2, 3] | sum", "6"),
        ("[m, m] | map(attribute='role') | join(', ')", "user, user"),
        ("[m, m] | join('-', attribute='role')", "user-user"),
        ("'a\nb' | indent(2, first=true)", "  a\n  b"),
        ("'ab'.replace('a', 'c').center(6, '-')", "--cb--"),
        ("'-'.join(['a', 'b'])", "a-b"),
        ("[1, 2, 3] | batch(2, 0) | list", "[[1, 2], [3, 0]]"),
        ("[1, 2, 3] | slice(2) | list", "[[1, 2], [3]]"),
        ("2.345 | round(1)", "2.3"),
        ("m | tojson(indent=2)", '{\n  "role": "user",\n  "content": "hi"\n}'),
        ("(m.role, m.content) == ('user', 'hi')", "True"),
        ("dict(a=1) | dictsort", "[('a', 1)]"),
        ("2 ** 10 * 3", "3072"),
    ],
)
def test_ordinary_expressions_give_what_jinja_gives(expression: str, value: str) -> None:
    source = "{% set m = messages[0] %}{{ " + expression + " }}"
    assert ChatTemplate(source, {}).render([ASK]) == value
