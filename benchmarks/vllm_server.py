"""`vllm serve` in the instruction set that the environment asks for (`machine.held_to`).

python benchmarks/vllm_server.py serve MODEL --port 8000
"""

from __future__ import annotations

import machine

machine.hold_vllm()  # here, since processes that vLLM spawns import this file as well

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
