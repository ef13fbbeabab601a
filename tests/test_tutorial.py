"""The tutorial's client against an adapter that was really trained: a call, what the tool saw, a final answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from swift import flags
from swift.assembly.loading import load_chat
from swift.commands import infer, sft
from swift.data.demo_rows import agent_rows
from swift.data.row_writer import write_jsonl
from swift.data.scenario import OBSERVATION, QUESTION, SYSTEM
from swift.flag_groups import BackendFlags
from swift.serve.server import create_app

ROWS = 40


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server of the bundled model, taught on a few dialogues with tools that the tutorial does not know."""
    folder = tmp_path_factory.mktemp("tutorial")
    write_jsonl(agent_rows(ROWS, seed=7, chinese=0.5, rounds=(1, 1), offered=(2, 2)), folder / "rows.jsonl")
    given = {
        "model": "smollm2-135m-instruct",
        "dataset": [str(folder / "rows.jsonl")],
        "dataset_test_ratio": 0,
        "output_dir": str(folder / "out"),
        "lora_target_modules": ["ALL"],
        "lora_dropout_p": 0.0,
        "learning_rate": 1e-3,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "report_to": ["none"],
        "disable_tqdm": True,
    }
    checkpoint = sft.main(flags.from_dict(sft.Config, given))["last_model_checkpoint"]
    chat = load_chat(infer.Config(backend=BackendFlags(ckpt_dir=checkpoint)), ())
    yield TestClient(create_app(chat, "tuned", complete=chat.complete))
    chat.engine.close()


@pytest.mark.model
@pytest.mark.parametrize("seed", [None, 1, 2, 3, 7, 42])
def test_the_tutorials_client_reaches_a_final_answer(http: TestClient, seed: int | None) -> None:
    drawn = {"temperature": 0} if seed is None else {"temperature": 0.3, "top_p": 0.7, "top_k": 20, "seed": seed}

    def ask(*messages: dict[str, str]) -> str:
        body = {"model": "tuned", "messages": messages, "stop": ["Observation:"], "max_tokens": 120, **drawn}
        return str(http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])

    asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    said = ask(*asked)
    assert "Action:" in said and said.endswith("Observation:")
    seen = {"role": "assistant", "content": f"{said}\n{OBSERVATION}"}
    assert "Final Answer:" in ask(*asked, seen)
