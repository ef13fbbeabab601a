"""What the tests verify of each known model, by verified.toml. Loads nothing.

The claims are about a model's class and its chat template; the tests do not download the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from swift.model.catalog import ModelSpec
from swift.system import toml_file


class Published(NamedTuple):
    """A published chat template that the tests render. `rounds`: how many are served as it renders them; 0: untested.

    `of`: its publisher. `models`: the known models whose tokenizers have it. `tools`: also with tools and their
    results. `form`: the tool-call format that parses its calls; empty for none.
    """

    of: str
    models: tuple[str, ...] = ()
    rounds: int = 0
    tools: bool = False
    form: str = ""


class Verified(NamedTuple):
    """`weights`: a tiny checkpoint of its class loads and computes the same. `template`: its published chat template;
    the rest is verified of that template, as in `Published`."""

    weights: bool = False
    template: str = ""
    rounds: int = 0
    tools: bool = False
    form: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        shown = {"weights": self.weights, "prompts": self.rounds, "calls": self.form}
        return tuple(part for part in PARTS if shown[part])

    def __str__(self) -> str:
        rounds = f"{self.rounds} rounds" if self.rounds > 1 else "1 round"
        words = {
            "weights": "weights",
            "prompts": f"prompts ({rounds}{' with tools' * self.tools})",
            "calls": f"calls ({self.form})",
        }
        return ", ".join(words[part] for part in self.parts) or "nothing"


PARTS = ("weights", "prompts", "calls")


def verified(spec: ModelSpec) -> Verified:
    """What the tests verify of a model: nothing of quantised weights and of those that its own code reads."""
    read = spec.convert in converters() if spec.convert else spec.arch in classes()
    weights = read and not (spec.quant or spec.model or spec.model_type in _table()["quantised"])
    name, each = _of_models().get(spec.model_type, ("", Published("")))
    if spec.template:  # SWIFT's own template agrees with the published one on rounds, not on tools
        each = each._replace(tools=False, form="")
    return Verified(weights, name, each.rounds, each.tools, each.form)


def classes() -> frozenset[str]:
    """transformers' classes of which the tests load a tiny checkpoint."""
    return frozenset(_table()["classes"])


def converters() -> frozenset[str]:
    """The families of `swift.model.convert` of which the tests load a tiny checkpoint."""
    return frozenset(_table()["converters"])


@cache
def templates() -> Mapping[str, Published]:
    """The published chat templates that the tests render, by the name of their file in the package trl."""
    found = _table()["templates"]
    return {name: Published(**{**each, "models": tuple(each.get("models", ()))}) for name, each in found.items()}


@cache
def _of_models() -> Mapping[str, tuple[str, Published]]:
    return {model: (name, each) for name, each in templates().items() for model in each.models}


@cache
def _table() -> Mapping[str, Any]:
    return toml_file.read(Path(__file__).parent / "verified.toml")
