"""--catalogue -> domains of functions: SWIFT's own, and those of installed packages that describe services. Imports
none of these packages: their data files are read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from swift import flags
from swift.flag_groups import SynthFlags
from swift.synth import catalogue, operations
from swift.synth.catalogue import Domain
from swift.synth.operations import Operation

Say = Callable[[str], None]
OWN = "swift"


class Source(NamedTuple):
    """A package that describes services. `services`: the default ones; `files(folder, name)`: the files of those of a
    name, the newest last, and without a name the names; `read`: a file's content -> operations."""

    package: str
    folder: str
    services: tuple[str, ...]
    files: Callable[[Path], dict[str, Path]]
    read: Callable[[str, Any], Iterator[Operation]]


def _botocore_files(folder: Path) -> dict[str, Path]:
    """Name of each service -> its newest model."""
    found = sorted(path for path in folder.glob("*/*/service-2.json*") if path.name.endswith((".json", ".json.gz")))
    return {path.parent.parent.name: path for path in found}


def _google_files(folder: Path) -> dict[str, Path]:
    """Name of each service -> its newest stable document: "calendar" -> calendar.v3.json."""
    found = [path for path in folder.glob("*.json") if path.name.count(".") >= 2]
    previews = ("alpha", "beta")
    found.sort(key=lambda path: (not any(word in path.name for word in previews), path.name))
    return {path.name.partition(".")[0]: path for path in found}


SOURCES: dict[str, Source] = {
    "botocore": Source(
        "botocore",
        "data",
        (
            "s3", "dynamodb", "ec2", "lambda", "sqs", "sns", "iam", "rds", "ecs", "route53", "secretsmanager", "kms",
            "logs", "events", "cloudwatch", "elasticache", "glue", "athena", "cognito-idp", "workmail",
        ),
        _botocore_files,
        operations.of_botocore,
    ),
    "google-api-python-client": Source(
        "googleapiclient",
        "discovery_cache/documents",
        (
            "calendar", "drive", "gmail", "tasks", "youtube", "people", "books", "storage", "bigquery", "classroom",
            "forms", "keep", "translate", "webmasters", "blogger", "groupssettings", "slides", "fitness",
        ),
        _google_files,
        operations.of_discovery,
    ),
}  # fmt: skip
"""Values of --catalogue beside "swift"."""


def domains(cfg: SynthFlags, say: Say) -> list[Domain]:
    """The domains of the flags. Raises ValueError for an unknown catalogue or service, and for flags without effect;
    OSError for a package that is not installed."""
    known = (OWN, *SOURCES)
    for name in cfg.catalogue:
        if name not in known:
            raise ValueError(
                f"--catalogue: no catalogue {name!r}{flags.nearest(name, known)} (known: {', '.join(known)})"
            )
    others = [name for name in dict.fromkeys(cfg.catalogue) if name != OWN]
    if not others:
        for flag in ("services", "service_functions"):
            if vars(cfg)[flag] != vars(SynthFlags())[flag]:
                raise ValueError(f"--{flag} has no effect without --catalogue {' or '.join(SOURCES)}")
    held_out = cfg.functions == "held_out"
    if held_out and others:
        raise ValueError(f"--functions held_out has no effect on {others[0]}, of which nothing is held out")
    found = [each for each in catalogue.domains() if each.held_out == held_out] if OWN in cfg.catalogue else []
    files = {name: _files(name) for name in others}
    every = [service for name in others for service in files[name]]
    if unknown := next((service for service in cfg.services if service not in every), None):
        raise ValueError(f"--services: {' and '.join(others)}: no service {unknown!r}{flags.nearest(unknown, every)}")
    for name in others:
        services = [each for each in cfg.services or SOURCES[name].services if each in files[name]]
        made = [_made(name, service, files[name][service], cfg.service_functions) for service in services]
        kept = [each.domain for each in made if each.domain.functions]
        count = sum(len(each.functions) for each in kept)
        skipped = sum(each.skipped for each in made)
        say(f"{name}: {count:,} functions of {len(kept)} services; {skipped:,} operations cannot be asked for in words")
        found += kept
    if not any(domain.functions for domain in found):
        where = ",".join(cfg.services) or "none of the default services"
        raise ValueError(f"--services: {where}: nothing can be asked for in words")
    return found


def _files(name: str) -> dict[str, Path]:
    source = SOURCES[name]
    spec = find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise OSError(f"--catalogue {name}: the package is not installed: pip install {name}")
    return source.files(Path(spec.submodule_search_locations[0]) / source.folder)


def _made(name: str, service: str, path: Path, most: int) -> operations.Made:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        found: Sequence[Operation] = list(SOURCES[name].read(service, json.loads(data)))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--catalogue {name}: {path} cannot be read: {type(error).__name__}: {error}") from None
    return operations.domain(service, found, most)
