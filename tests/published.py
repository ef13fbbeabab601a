"""A few rows of every published text set in the shape it is published in, and the dialogues they stand for.

`PUBLISHED[name] = (rows, dialogues)`; a dialogue is its turns, (role, content). The rows are made up.
"""

from __future__ import annotations

Turns = list[tuple[str, str]]


def asked(query: str, response: str, system: str | None = None) -> Turns:
    turns = [] if system is None else [("system", system)]
    return [*turns, ("user", query), ("assistant", response)]


def text(response: str) -> Turns:
    return [("assistant", response)]


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": role, "value": value} for role, value in turns]


ALPACA = (
    [
        {"instruction": "Add the numbers.", "input": "2 and 3", "output": "5"},
        {"instruction": "Name a colour.", "input": "", "output": "Red."},
    ],
    [asked("Add the numbers.\n2 and 3", "5"), asked("Name a colour.", "Red.")],
)

OFFERS = '1. {"plugin_name": "modelscope_speech"} 2. {"plugin_name": "modelscope_image"}'
API_OFFERS = '1. {"name": "weather_api"} 2. {"name": "clock_api"}'
ONE_OFFER = '1. {"plugin_name": "modelscope_speech"} 2. {"plugin_name": "modelscope_speech"}'


def damo(system: str, *turns: str) -> dict[str, str]:
    roles = ("user", "assistant")
    dialogue = said(("system", system), *((roles[number % 2], turn) for number, turn in enumerate(turns)))
    return {"id": "1", "conversations": str(dialogue)}


REACT = "Thought: I look.\nAction: clock\nAction Input: {}\nObservation: 9\nThought: I know.\nFinal Answer: 9"
AGENT = said(("system", "You have access to the following APIs: clock"), ("user", "What time?"), ("assistant", REACT))
AGENT_TURNS = [("system", "You have access to the following APIs: clock"), *asked("What time?", REACT)]

NLI = (
    "Task: Natural Language Inference\nSentence1: 天晴\nSentence2: 有雨\nCategory: neutral, entailment, contradiction\n"
)
SENTIMENT = "Task: Sentiment Classification\nSentence: {}\nCategory: negative, positive\nOutput:"
WRITER = (
    "Task: Tell whether a person or ChatGPT wrote the answer\n"
    "Question: {}\nAnswer: {}\nCategory: Human, ChatGPT\nOutput:"
)
HC3 = (
    [
        {
            "id": "0",
            "question": "Why save?",
            "human_answers": ["For later.", "No idea"],
            "chatgpt_answers": ["It is wise."],
        },
        {"id": "1", "question": "Who?", "human_answers": [], "chatgpt_answers": []},
    ],
    [
        asked(WRITER.format("Why save?", "For later."), "Human"),
        asked(WRITER.format("Why save?", "No idea"), "Human"),
        asked(WRITER.format("Why save?", "It is wise."), "ChatGPT"),
    ],
)
PAIRS = [{"human": "早", "assistant": "早上好"}, {"human": "再见", "assistant": "回见"}]
SHAREGPT = (
    [
        {"conversation_id": 1, "category": "c", "conversation": PAIRS},
        {"conversation_id": 2, "conversation": str(PAIRS)},
    ],
    [[*asked("早", "早上好"), *asked("再见", "回见")]] * 2,
)
HH = (
    [
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: A joke?\n\nAssistant: Knock knock.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: A joke?\n\nAssistant: No.",
        },
        {  # the replies part early: what comes after answers the rejected reply, or not
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Bye\n\nAssistant: Bye.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: What?\n\nHuman: Rude\n\nAssistant: So?",
        },
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: Yes"},
    ],
    [[*asked("Hi", "Hello!"), *asked("A joke?", "Knock knock.")], asked("Hi", "Hello!")],
)
RED_TEAM = (
    [{"transcript": "\n\nHuman: Do harm\n\nAssistant: I will not.\n\nHuman: Pity", "rating": 4.0, "tags": None}],
    [asked("Do harm", "I will not.")],
)
CONTEXT = [{"role": "human", "text": "你好"}, {"role": "assistant", "text": "您好"}, {"role": "human", "text": "几点"}]
CHOSEN, REJECTED = {"role": "assistant", "text": "九点"}, {"role": "assistant", "text": "不知道"}
HH_CN = (
    [
        {"context": CONTEXT, "chosen": CHOSEN, "rejected": REJECTED},
        {"context": str(CONTEXT), "chosen": str(CHOSEN), "rejected": str(REJECTED)},
    ],
    [[*asked("你好", "您好"), *asked("几点", "九点")]] * 2,
)
MS_BENCH = (
    [
        {
            "id": "0",
            "conversations": str(said(("system", "You are a helpful assistant."), ("user", "q"), ("assistant", "r"))),
        },
        {"id": "1", "conversations": said(("system", "Be brief."), ("user", "q"), ("assistant", "r"))},
        {"id": "2", "conversations": str(said(("user", "who?"), ("assistant", "I am MOSS")))},
        {"id": "3", "conversations": str(said(("user", "Human: q"), ("assistant", "r")))},
        {"id": "4", "conversations": str(said(("user", "q"), ("assistant", "r\nAssistant: r")))},
        {"id": "5", "conversations": str(said(("user", "q"), ("assistant", "User: r")))},
    ],
    [asked("q", "r"), asked("q", "r", "Be brief.")],
)
INSTINWILD = ([{"instruction": "写诗", "input": "", "output": "春眠"}], [asked("写诗", "春眠")])
FIREFLY = (
    [{"kind": "Translation", "input": "Translate: 早", "target": "Morning"}],
    [asked("Translate: 早", "Morning")],
)
ORCA = (
    [
        {"id": "niv.1", "system_prompt": "Be exact.", "question": "2+2?", "response": "4"},
        {"id": "niv.2", "system_prompt": "", "question": "3+3?", "response": "6"},
    ],
    [asked("2+2?", "4", "Be exact."), asked("3+3?", "6", "")],
)
GPT4 = (
    [{"conversations": said(("human", "q1"), ("gpt", "r1"), ("human", "q2"), ("gpt", "r2"))}],
    [[*asked("q1", "r1"), *asked("q2", "r2")]],
)
CMNLI = (
    [
        {"sentence1": "天晴", "sentence2": "有雨", "label": 2, "idx": 0},
        {"sentence1": "天晴", "sentence2": "有雨", "label": -1, "idx": 1},
    ],
    [asked(NLI + "Output:", "contradiction")],
)
MEDICAL_ZH = (
    [{"instruction": "头痛怎么办？", "input": "", "output": "多休息。"}],
    [asked("头痛怎么办？", "多休息。")],
)
DAMO_MINI = (
    [damo(OFFERS, "说话", "好"), damo(API_OFFERS, "天气", "晴"), damo(ONE_OFFER, "说话", "好")],
    [asked("说话", "好", OFFERS)],
)

PUBLISHED: dict[str, tuple[list[dict], list[Turns]]] = {
    "ms-agent": ([{"id": "MS_Agent_1", "conversations": AGENT}, {"conversations": str(AGENT)}], [AGENT_TURNS] * 2),
    "ms-agent-for-agentfabric": ([{"id": "a", "conversations": AGENT}], [AGENT_TURNS]),
    "ms-agent-multirole": (
        [
            {
                "id": "1",
                "conversations": said(("user", "你是小明。"), ("小红", "早"), ("小刚", "饿了"), ("小明", "吃饭吧")),
            },
            {"id": "2", "conversations": said(("user", "你是小明。"), ("小明", "大家好"))},
            {"id": "3", "conversations": said(("user", "早 next_speakers:"), ("小红", "早"), ("host", "小明"))},
        ],
        [
            asked("你是小明。\n\n【对话记录】\n小红: 早\n小刚: 饿了", "吃饭吧"),
            asked("你是小明。", "大家好"),
            asked("早 next_speakers:", "小明"),
        ],
    ),
    "damo-agent-zh": (
        [damo(OFFERS, "说话", "好"), damo(API_OFFERS, "天气", "晴"), damo(ONE_OFFER, "说话", "好"), damo(OFFERS)],
        [asked("说话", "好", OFFERS), asked("天气", "晴", API_OFFERS)],
    ),
    "damo-agent-zh-mini": DAMO_MINI,
    "damo-agent-mini-zh": DAMO_MINI,
    "agent-instruct-all-en": (
        [
            {
                "id": "os_0",
                "conversations": "[{'from': 'human', 'loss': None, 'value': 'List the files.'}\n"
                " {'from': 'gpt', 'loss': True, 'value': 'Act: bash\\nls'}]",
            }
        ],
        [asked("List the files.", "Act: bash\nls")],
    ),
    "toolbench-for-alpha-umi": (
        [
            {"conversations": said(("system", "Plan: who is next?"), ("assistant", "Next: caller."))},
            {"conversations": said(("system", "Call a tool."), ("caller", "Action: clock"))},
            {"conversations": said(("system", "Sum up."), ("conclusion", "It is nine."))},
        ],
        [
            asked("Plan: who is next?", "Next: caller."),
            asked("Call a tool.", "Action: clock"),
            asked("Sum up.", "It is nine."),
        ],
    ),
    "ms-bench": MS_BENCH,
    "ms-bench-mini": MS_BENCH,
    "alpaca-zh": (
        [
            {"instruction": "翻译", "input": "输入：早", "output": "Morning"},
            {"instruction": "写诗", "input": "", "output": "春眠"},
        ],
        [asked("翻译\n早", "Morning"), asked("写诗", "春眠")],
    ),
    "alpaca-en": ([row | {"text": "Below is an instruction ..."} for row in ALPACA[0]], ALPACA[1]),
    "multi-alpaca": ALPACA,
    "multi-alpaca-all": ALPACA,
    "instinwild": INSTINWILD,
    "instinwild-zh": INSTINWILD,
    "instinwild-en": INSTINWILD,
    "cot-zh": ALPACA,
    "cot-en": ALPACA,
    "firefly-zh": FIREFLY,
    "firefly-all-zh": FIREFLY,
    "instruct-en": ([{"prompt": "2+2?", "completion": "4", "source": "x"}], [asked("2+2?", "4")]),
    "gpt4all-en": ALPACA,
    "sharegpt": SHAREGPT,
    "sharegpt-zh": SHAREGPT,
    "sharegpt-en": SHAREGPT,
    "sharegpt-gpt4": GPT4,
    "sharegpt-gpt4-mini": GPT4,
    "tulu-v2-sft-mixture": (
        [
            {
                "dataset": "flan",
                "id": "flan_1",
                "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}],
            }
        ],
        [asked("q", "r")],
    ),
    "open-orca": ORCA,
    "open-orca-gpt4": ORCA,
    "coig-cqia": (
        [
            {
                "instruction": "何为天？",
                "input": "",
                "output": "气也。",
                "task_type": {"major": ["问答"]},
                "domain": ["哲学"],
            }
        ],
        [asked("何为天？", "气也。")],
    ),
    "deepctrl-sft": (
        [
            {
                "id": 1,
                "instruction": "",
                "input": "再见",
                "output": "回见",
                "history": [["早", "早上好"]],
                "data_source": "x",
            }
        ],
        [[*asked("早", "早上好"), *asked("再见", "回见")]],
    ),
    "long-alpaca-12k": (
        [
            {
                "instruction": "A long paper. What is new?",
                "input": "",
                "output": "Answer: The method.",
                "file": "p.txt",
            },
            {"instruction": "Name a colour.", "input": "", "output": "The Answer: red."},
        ],
        [asked("A long paper. What is new?", "The method."), asked("Name a colour.", "The Answer: red.")],
    ),
    "generated-chat-zh": ALPACA,
    "webnovel-zh": ALPACA,
    "code-alpaca-en": ALPACA,
    "leetcode-python-en": (
        [
            {
                "code_with_problem": "# Two Sum\n\nFind two numbers.\n\n```python\nprint(1)\n```\n",
                "code_only": "print(1)",
                "explanation_only": "## Explanation\nIt prints.",
            }
        ],
        [asked("Two Sum\n\nFind two numbers.", "```python\nprint(1)\n```\n\n## Explanation\nIt prints.")],
    ),
    "codefuse-python-en": (
        [{"id": 0, "chat_rounds": [{"role": "human", "content": "def f"}, {"role": "bot", "content": "return 1"}]}],
        [asked("def f", "return 1")],
    ),
    "codefuse-evol-instruction-zh": ([{"instruction": "写代码", "output": "print(1)"}], [asked("写代码", "print(1)")]),
    "text2sql-en": (
        [
            {
                "instruction": "How many?",
                "input": "CREATE TABLE t (n)",
                "response": "SELECT COUNT(*) FROM t",
                "source": "s",
                "text": "...",
            }
        ],
        [asked("How many?\nCREATE TABLE t (n)", "SELECT COUNT(*) FROM t")],
    ),
    "sql-create-context-en": (
        [{"question": "How many?", "context": "CREATE TABLE t (n)", "answer": "SELECT COUNT(*) FROM t"}],
        [asked("How many?\nCREATE TABLE t (n)", "SELECT COUNT(*) FROM t")],
    ),
    "school-math-zh": ALPACA,
    "blossom-math-zh": (
        [{"id": "1", "input": "2+2=?", "output": "把两个数相加。", "answer": "4", "dataset": "math23k"}],
        [asked("2+2=?", "把两个数相加。\n\nAnswer: 4")],
    ),
    "open-platypus-en": ([row | {"data_source": "x"} for row in ALPACA[0]], ALPACA[1]),
    "medical-en": (
        [{"instruction": "If you are a doctor, please answer.", "input": "I cough.", "output": "Rest."}],
        [asked("I cough.", "Rest.")],
    ),
    "medical-zh": MEDICAL_ZH,
    "medical-mini-zh": MEDICAL_ZH,
    "disc-med-sft-zh": (
        [
            {
                "_id": 1,
                "source": "x",
                "conversation": [{"role": "user", "content": "咳"}, {"role": "assistant", "content": "歇"}],
            }
        ],
        [asked("咳", "歇")],
    ),
    "lawyer-llama-zh": (
        [{"instruction": "能离婚吗？", "input": "", "output": "可以。", "history": "无"}],
        [asked("能离婚吗？", "可以。")],
    ),
    "tigerbot-law-zh": (
        [
            {
                "type": "宪法",
                "title": "中国宪法",
                "chapter1": "第一章",
                "chapter2": "第一节",
                "chapter3": None,
                "response": "第一条",
            },
            {
                "type": "刑法",
                "title": "刑法",
                "chapter1": None,
                "chapter2": None,
                "chapter3": None,
                "response": "第二条",
            },
        ],
        [text("宪法\n第一章第一节第一条"), text("刑法\n第二条")],
    ),
    "disc-law-sft-zh": (
        [
            {"id": "1", "input": "何罪？", "output": "盗窃罪。"},
            {"id": "2", "reference": ["法条"], "input": "何罪？", "output": "无罪。"},
        ],
        [asked("何罪？", "盗窃罪。"), asked("何罪？", "无罪。")],
    ),
    "finance-en": ALPACA,
    "cmnli-zh": CMNLI,
    "cmnli-mini-zh": CMNLI,
    "jd-sentiment-zh": (
        [
            {"sentence": "很好", "label": 1.0, "dataset": "jd"},
            {"sentence": "不好", "label": "0.0", "dataset": "jd"},
            {"sentence": "？", "label": "", "dataset": "jd"},
        ],
        [asked(SENTIMENT.format("很好"), "positive"), asked(SENTIMENT.format("不好"), "negative")],
    ),
    "hc3-zh": HC3,
    "hc3-en": HC3,
    "cls-fudan-news-zh": ([{"prompt": "分类：足球", "answer": "体育"}], [asked("分类：足球", "体育")]),
    "ner-jave-zh": ([{"prompt": "实体：北京很大", "answer": "北京"}], [asked("实体：北京很大", "北京")]),
    "advertise-gen-zh": (
        [{"content": "类型#裤*版型#宽松", "summary": "宽松的裤子。"}],
        [
            asked(
                "Task: Generating advertisements based on keywords.\nKeywords: 类型#裤*版型#宽松\nAdvertisements:",
                "宽松的裤子。",
            )
        ],
    ),
    "dureader-robust-zh": (
        [{"text1": "九点[SEP]现在九点。", "text2": "现在几点？"}],
        [asked("Task: Question Generation\nContext: 现在九点。\nAnswer: 九点\nQuestion:", "现在几点？")],
    ),
    "poetry-zh": ([{"text1": "床前明月光，疑是地上霜。"}], [text("床前明月光，疑是地上霜。")]),
    "wikipedia-zh": (
        [{"completion": "昭通机场是一座机场。", "source": "wikipedia.zh2307"}],
        [text("昭通机场是一座机场。")],
    ),
    "pileval": ([{"text": "Once.", "meta": {"pile_set_name": "Books3"}}], [text("Once.")]),
    "ruozhiba": (
        [
            {"title": "12、一个问题", "abs": "为什么", "ans": "x"},
            {"title": "我买了2 个梨", "abs": "我买了2 个梨"},
            {"content": "3.好"},
            {"title": " ", "abs": ""},
        ],
        [text("一个问题，为什么"), text("我买了2 个梨"), text("好")],
    ),
    "hh-rlhf": HH,
    "hh-rlhf-harmless-base": HH,
    "hh-rlhf-helpful-base": HH,
    "hh-rlhf-helpful-online": HH,
    "hh-rlhf-helpful-rejection-sampled": HH,
    "hh-rlhf-red-team-attempts": RED_TEAM,
    "hh-rlhf-cn": HH_CN,
    "hh-rlhf-cn-harmless-base-cn": HH_CN,
    "hh-rlhf-cn-harmless-base-en": HH_CN,
    "hh-rlhf-cn-helpful-base-cn": HH_CN,
    "hh-rlhf-cn-helpful-base-en": HH_CN,
    "stack-exchange-paired": (
        [
            {
                "qid": 1,
                "question": "How?",
                "date": "2011",
                "metadata": ["x"],
                "response_j": "Like this.",
                "response_k": "Not at all.",
            }
        ],
        [asked("How?", "Like this.")],
    ),
    "shareai-llama3-dpo-zh-en-emoji": (
        [{"question": "你是谁？", "answer_zh": "我是助手😊", "answer_en": "I am an assistant"}],
        [asked("你是谁？", "我是助手😊")],
    ),
}
