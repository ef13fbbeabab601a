"""A minimal HTTP server around OpenVINO GenAI's continuous batching, for load_speed.py and load_curve.py.

    python benchmarks/openvino_server.py MODEL.gguf --tokenizer tokenizer.json --port 8000 --threads 2

Streams chat completions: messages as ChatML, greedy decoding, always the maximum of tokens. It implements only what the
benchmark's client uses of OpenAI's API. Text is tokenised with the model's own tokenizer.json, because the tokenizer
that OpenVINO creates from a GGUF file yields a tenth more tokens. Needs a Python with openvino-genai and tokenizers.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import machine
import numpy
import openvino
import openvino_genai
from tokenizers import Tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""The end of a decoded text whose last character is incomplete."""

Tokens = list[int]


class Batcher:
    """Batches requests of many threads: one thread steps OpenVINO's scheduler."""

    def __init__(self, model: str, streams: int, threads: int, cache_gib: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size, scheduler.enable_prefix_caching = cache_gib, True
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = 1024, streams
        properties = machine.openvino_properties(threads)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
        self._changed = threading.Condition()
        self._running: list[tuple[Any, int, queue.SimpleQueue[Tokens]]] = []
        self._count = 0
        threading.Thread(target=self._work, daemon=True).start()

    def answer(self, prompt: Tokens, new: int) -> Iterator[Tokens]:
        """Yields the tokens of each step."""
        tensor = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        settings = openvino_genai.GenerationConfig()
        settings.apply_chat_template, settings.ignore_eos, settings.max_new_tokens = False, True, new
        steps: queue.SimpleQueue[Tokens] = queue.SimpleQueue()
        with self._changed:
            self._count += 1
            self._running.append((self._pipeline.add_request(self._count, tensor, settings), new, steps))
            self._changed.notify()
        while new > 0:
            step = steps.get()
            new -= len(step)
            yield step

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._running)
                running = list(self._running)
            self._pipeline.step()
            ended = []
            for number, (handle, left, steps) in enumerate(running):
                while handle.can_read():
                    for output in handle.read().values():
                        left -= len(output.generated_ids)
                        steps.put(list(output.generated_ids))
                running[number] = (handle, left, steps)
                if left <= 0:
                    ended.append(number)
            with self._changed:
                started_since = self._running[len(running) :]
                self._running = [each for number, each in enumerate(running) if number not in ended] + started_since


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    batcher: Batcher
    tokenizer: Tokenizer

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "openvino"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = "".join(
            f"<|im_start|>{each['role']}\n{_text(each['content'])}<|im_end|>\n" for each in request["messages"]
        )
        prompt = self.tokenizer.encode(f"{messages}<|im_start|>assistant\n", add_special_tokens=False).ids
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        tokens: Tokens = []
        sent = ""
        new = request.get("max_tokens") or request["max_completion_tokens"]
        for step in self.batcher.answer(prompt, new):
            tokens += step
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            if len(text) > len(sent) and not text.endswith(UNFINISHED):
                self._event({"choices": [{"delta": {"content": text[len(sent) :]}}]})
                sent = text
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: lines per request would mix with the benchmark's output."""


def _text(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cache_gib", type=int, default=4)
    args = parser.parse_args()
    Handler.batcher = Batcher(args.model, args.streams, args.threads, args.cache_gib)
    Handler.tokenizer = Tokenizer.from_file(args.tokenizer)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
