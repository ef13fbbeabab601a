"""vLLM's OpenAI server in the instruction set that the environment asks for (`machine.held_to`).

    python benchmarks/vllm_server.py --model FOLDER --port 8000

`vllm serve` itself looks for a package named vllm, which the wheel for CPUs is not.
"""

from __future__ import annotations

import machine

machine.hold_vllm()  # here, since processes that vLLM spawns import this file as well

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
