"""What an engine writes of its own accord stays out of the dialogue: a fake vLLM, as talkative as the real one."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tiny import tiny_model_folder, tiny_tokenizer

FAKE = {
    "vllm/__init__.py": """
        import logging, os, subprocess, sys
        print("at import")
        logging.getLogger("vllm").addHandler(logging.StreamHandler(sys.stdout))
        logging.getLogger("vllm").warning("a logger at import")
        class AsyncEngineArgs:
            def __init__(self, **options): ...
        class SamplingParams:
            def __init__(self, **options): self.logprobs = None
    """,
    "vllm/config.py": "class StructuredOutputsConfig:\n    def __init__(self, backend): ...",
    "vllm/lora/__init__.py": "",
    "vllm/lora/request.py": "LoRARequest = object",
    "vllm/inputs.py": "def TokensPrompt(prompt_token_ids): return prompt_token_ids",
    "vllm/sampling_params.py": "class RequestOutputKind:\n    DELTA = 0\nStructuredOutputsParams = None",
    "vllm/v1/__init__.py": "",
    "vllm/v1/engine/__init__.py": "",
    "vllm/v1/engine/async_llm.py": """
        import logging, multiprocessing, os, signal, subprocess, sys
        from types import SimpleNamespace

        LATER = "import os, signal; print('a process: Ctrl-C', signal.SIGINT in signal.pthread_sigmask(0, ()))"

        def noise(when):
            os.write(1, f"fd 1 {when}\\n".encode())
            os.write(2, f"fd 2 {when}\\n".encode())
            logging.getLogger("vllm").warning("a logger %s", when)
            subprocess.run([sys.executable, "-c", LATER], check=True)

        def forked():
            print("a fork", flush=True)

        class AsyncLLM:
            @classmethod
            def from_engine_args(cls, arguments):
                noise("at the start")
                process = multiprocessing.get_context("fork").Process(target=forked)
                process.start()
                process.join()
                if os.environ.get("FAIL"):
                    raise RuntimeError("no memory")
                self = cls()
                self.model_config = SimpleNamespace(max_model_len=512, get_vocab_size=lambda: 300)
                return self

            async def generate(self, prompt, params, name, lora_request=None):
                noise("in a reply")
                for token in [*map(int, os.environ["TOKENS"].split()), 2]:
                    yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[token], logprobs=None)])

            def shutdown(self):
                noise("at the end")
    """,
}
NOISE = ("at import", "a logger at", "fd 1 at", "fd 2 at", "a process", "a fork", "in a reply", "at the end")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def talked(base, tmp_path):
    """Runs `swift infer` in a process of its own; gives what came to standard output and error, and the log."""
    for name, text in FAKE.items():
        file = tmp_path / "fake" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def run(**env):
        path = os.pathsep.join([str(tmp_path / "fake"), os.environ.get("PYTHONPATH", "")])
        tokens = " ".join(map(str, tiny_tokenizer()("ef").input_ids))
        flags = ["--model", str(base), "--template_type", "qwen", "--infer_backend", "vllm", "--save_result", "false"]
        ran = subprocess.run(
            [sys.executable, "-m", "swift.cli", "infer", *flags],
            env={**os.environ, "PYTHONPATH": path, "SWIFT_CACHE": str(tmp_path / "cache"), "TOKENS": tokens, **env},
            cwd=tmp_path, input="hello\nagain\n", capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        (log,) = (tmp_path / "cache" / "logs").glob("vllm-*.log")
        return ran, log

    return run


def test_what_vllm_and_its_processes_write_goes_to_a_file_that_is_named_once(talked):
    ran, log = talked()
    assert ran.returncode == 0, ran.stderr
    rule = "-" * 50
    assert ran.stdout == f"<<< hello\nef\n{rule}\n<<< again\nef\n{rule}\n"
    assert ran.stderr.count(f"vLLM's log: {log}\n") == 1
    written = log.read_text()
    for noise in NOISE:
        assert noise not in ran.stdout + ran.stderr
        assert noise in written


def test_a_terminals_ctrl_c_does_not_reach_vllms_processes(talked):
    _, log = talked()
    assert "a process: Ctrl-C True" in Path(log).read_text()


def test_where_vllm_cannot_start_the_error_is_on_standard_error_and_the_reason_in_the_log(talked):
    ran, log = talked(FAIL="1")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines()[0] == f"vLLM's log: {log}"
    assert "vLLM cannot serve it: no memory" in ran.stderr.splitlines()[-1]
