"""vLLM's OpenAI server, restricted to the instruction set in the environment (`machine.restricted_to`).

    python benchmarks/vllm_server.py --model FOLDER --port 8000

`vllm serve` itself requires a package named vllm; the wheel for CPUs has another name.
"""

from __future__ import annotations

import machine

machine.restrict_vllm()  # at import, because processes that vLLM spawns import this file as well

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
