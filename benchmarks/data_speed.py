"""Rows read, checked and tokenised a second, and the most memory that took.

    python benchmarks/data_speed.py --rows 100000

The rows are agent conversations that the project makes, in a file of JSON lines; all that `swift sft` does with them
before it trains is done: reading, repairing, checking, rendering, tokenising, laying on weights.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from swift.commands.groups import TemplateFlags
from swift.commands.rendering import make_renderer
from swift.data.mix import DataPlan, load_datasets
from swift.data.synth import agent_rows, write_jsonl
from swift.model import bundled, specs
from swift.template.fit import Lengths, fit_all, processes_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=0, help="0: as many as swift sft takes")
    options = parser.parse_args()
    renderer = make_renderer(bundled.unpack(), TemplateFlags(), specs.find(bundled.MODEL_TYPE))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        made = [row for seed in range(-(-options.rows // 2000)) for row in agent_rows(2000, seed)][: options.rows]
        write_jsonl(made, file)
        del made
        began = time.perf_counter()
        rows, _, _ = load_datasets(DataPlan(dataset=(str(file),), dataset_test_ratio=0.0), lambda line: None)
        read = time.perf_counter()
        processes = options.processes or processes_for(len(rows))
        count = tokens = 0
        for sample in fit_all(renderer, rows, 2048, "delete", Lengths(), processes):
            count, tokens = count + 1, tokens + len(sample.tokens)
        done = time.perf_counter()
    used = [resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"{count:,} rows of {tokens / count:.0f} tokens, {processes} processes")
    print(f"reading and checking: {len(rows) / (read - began):,.0f} rows/s")
    print(f"rendering and tokenising: {count / (done - read):,.0f} rows/s")
    print(f"together: {count / (done - began):,.0f} rows/s; peak {used[0]:.2f} GiB, each process {used[1]:.2f} GiB")


if __name__ == "__main__":
    main()
