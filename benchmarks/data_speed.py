"""Rows read, validated and tokenised per second, and the peak memory.

    python benchmarks/data_speed.py --rows 100000
    python benchmarks/data_speed.py --template own                           # the tokenizer's own chat template
    python benchmarks/data_speed.py --template qwen.jinja --style messages   # another model's, with structured calls

The rows are synthetic agent conversations in a JSON lines file. They go through everything that `swift sft` does before
training: reading, repairing, validation, rendering, tokenisation, loss weights.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

from swift.assembly.rendering import make_renderer
from swift.chat import Conversation
from swift.data.demo_rows import Style, agent_rows
from swift.data.disk_list import IN_MEMORY
from swift.data.mix import DataPlan, load_datasets
from swift.data.row_writer import write_jsonl
from swift.flag_groups import TemplateFlags
from swift.model import bundled, catalog
from swift.model.load import load_tokenizer
from swift.system import gc_tuning
from swift.template import Renderer
from swift.template.truncation import LengthReport, processes_for, truncate_all
from swift.train.sample_cache import CompactSamples

TOKENIZER_ROWS = 2000
"""Rows for the timing of the tokenizer alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=0, help="0: as many as swift sft uses")
    parser.add_argument("--template", default="AUTO", help="a table's name, AUTO, own, or a file with a Jinja template")
    parser.add_argument("--style", choices=get_args(Style), default="ms_agent", help="calls as text, or structured")
    args = parser.parse_args()
    renderer = load_renderer(args.template)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        made = (row for seed in range(-(-args.rows // 2000)) for row in agent_rows(2000, seed, style=args.style))
        write_jsonl(islice(made, args.rows), file)
        with gc_tuning.infrequent():  # as `swift sft` does
            started, began, began_cpu = peak(), time.perf_counter(), processor_time()
            rows, _, _ = load_datasets(DataPlan(dataset=(str(file),), dataset_test_ratio=0.0), lambda line: None)
            read, held = time.perf_counter(), peak()
            processes = args.processes or processes_for(len(rows))
            keep = CompactSamples.on_disk if len(rows) > IN_MEMORY else CompactSamples.in_memory
            lengths = LengthReport()
            samples = keep(truncate_all(renderer, rows, 2048, "delete", lengths, processes))
            done, done_cpu = time.perf_counter(), processor_time()
    count = len(rows)
    print(f"{count:,} rows, {len(samples):,} samples, {sum(samples.lengths):,} tokens, {processes} processes")
    for line in lengths.lines():
        print(line)
    print(f"reading and validation: {len(rows) / (read - began):,.0f} rows/s")
    print(f"rendering and tokenisation: {count / (done - read):,.0f} rows/s")
    print(f"together: {count / (done - began):,.0f} rows/s, {count / (done_cpu - began_cpu):,.0f} for a core's time")
    print(f"peak: {started:.2f} GiB at the start, {held:.2f} with the rows, {peak():.2f} with their tokens")
    print(
        f"the tokenizer alone, text by text: {tokenizer_speed(renderer, rows[:TOKENIZER_ROWS]):,.0f} rows/s of a core"
    )


def load_renderer(name: str) -> Renderer:
    """The renderer of the bundled model with a built-in table, its tokenizer's own template or that of a file."""
    spec = catalog.find(bundled.MODEL_TYPE)
    if name != "own" and not Path(name).is_file():
        return make_renderer(bundled.unpack(), TemplateFlags(template_type=name), spec)
    tokenizer = load_tokenizer(bundled.unpack(), spec=spec)
    if name != "own":
        tokenizer.chat_template = Path(name).read_text(encoding="utf-8")
    return Renderer(tokenizer, None)


def tokenizer_speed(renderer: Renderer, rows: Sequence[Conversation]) -> float:
    """Rows per second of processor time that the tokenizer library itself takes for the same texts."""
    texts = [sample.text for row in rows for sample in renderer.show_samples(row)]
    began = processor_time()
    for text in texts:
        renderer.tokenizer(text, add_special_tokens=False)
    return len(rows) / (processor_time() - began)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def processor_time() -> float:
    """Seconds of this process and of its child processes that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
