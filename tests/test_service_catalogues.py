"""`swift data synth --catalogue`: functions of packages that describe services, with packages of ours in place."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import pytest

from swift import cli
from swift.agent import schemas
from swift.synth import operations, phrasing, verify
from swift.synth.operations import Field, Operation

NEVER = "This sentence is the documentation of the service"
SHAPES = {
    "Name": {"type": "string", "min": 3, "max": 40, "pattern": "[a-z0-9-]+"},
    "Count": {"type": "integer", "min": 1, "max": 50},
    "Mode": {"type": "string", "enum": ["DRY", "HUMID"]},
    "Flag": {"type": "boolean"},
    "Moment": {"type": "timestamp"},
    "Secret": {"type": "string", "sensitive": True},
    "Bytes": {"type": "blob"},
    "Anything": {"type": "string"},
    "BenchIds": {"type": "list", "member": {"shape": "Anything"}},
}


def operation(name: str, required: list[str], **members: str) -> tuple[dict, dict]:
    shape = {
        "type": "structure",
        "required": required,
        "members": {member: {"shape": each, "documentation": NEVER} for member, each in members.items()},
    }
    return {"name": name, "input": {"shape": f"{name}Input"}, "documentation": NEVER}, {f"{name}Input": shape}


def model() -> dict:
    made = [
        operation("CreateBench", ["BenchName"], BenchName="Name", Mode="Mode", PotCount="Count", Heated="Flag"),
        operation("DeleteBench", ["BenchName"], BenchName="Name", Force="Flag", ClientToken="Anything"),
        operation("GetBenchSchedule", ["BenchName"], BenchName="Name", StartTime="Moment"),
        operation("ListBenches", [], BenchIds="BenchIds", MaxResults="Count", NextToken="Anything"),
        operation("UploadBenchPhoto", ["BenchName", "Photo"], BenchName="Name", Photo="Bytes"),
        operation("LockBench", ["BenchName", "Password"], BenchName="Name", Password="Secret"),
        operation("TuneBench", ["BenchName", "Payload"], BenchName="Name", Payload="Anything"),
    ]
    shapes = {name: shape for _, each in made for name, shape in each.items()}
    return {
        "metadata": {"serviceId": "Greenhouse"},
        "operations": {each["name"]: each for each, _ in made},
        "shapes": {**SHAPES, **shapes},
    }


DOCUMENT = {
    "title": "Allotment API",
    "ownerName": "Google",
    "schemas": {
        "Plot": {
            "properties": {
                "title": {"type": "string", "description": NEVER},
                "state": {"type": "string", "enum": ["STATE_UNSPECIFIED", "FREE", "RENTED"]},
                "etag": {"type": "string"},
                "size": {"type": "string", "readOnly": True},
            }
        }
    },
    "resources": {
        "plots": {
            "methods": {
                "list": {"parameters": {"maxResults": {"type": "integer", "minimum": "1", "maximum": "30"}}},
                "insert": {"request": {"$ref": "Plot"}, "description": NEVER},
                "delete": {"parameters": {"plotId": {"type": "string", "location": "path", "required": True}}},
                "get": {"parameters": {"fields": {"type": "string", "required": True}}},
            }
        }
    },
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages with the names and files of botocore and google-api-python-client."""
    old, new = (tmp_path / "site/botocore/data/greenhouse" / year for year in ("2019-01-01", "2024-01-01"))
    documents = tmp_path / "site/googleapiclient/discovery_cache/documents"
    for folder in (old, new, documents):
        folder.mkdir(parents=True)
    for package in ("botocore", "googleapiclient"):
        (tmp_path / "site" / package / "__init__.py").write_text("raise ImportError('the package is never imported')")
    (old / "service-2.json").write_text("{}")
    (new / "service-2.json.gz").write_bytes(gzip.compress(json.dumps(model()).encode()))
    (documents / "allotment.v1.json").write_text(json.dumps(DOCUMENT))
    (documents / "allotment.v2beta1.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


def synth(out: Path, *words: object) -> int:
    return cli.main(["data", "synth", "-n", "20", "--out", str(out), "--masked_names", "0", *map(str, words)])


def test_functions_of_a_service_are_asked_for_in_our_words(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = installed / "rows.jsonl"
    assert synth(out, "--catalogue", "botocore", "--services", "greenhouse") == 0
    said = capsys.readouterr().out
    assert "botocore: 4 functions of 1 services; 3 operations cannot be asked for in words" in said
    text = out.read_text(encoding="utf-8")
    assert NEVER not in text and "ClientToken" not in text and "NextToken" not in text
    names = {re.sub(r"[\W_]", "", tool["function"]["name"]).lower() for tool in tools(text)}
    known = {"createbench", "deletebench", "getbenchschedule", "listbenches"}
    assert all(any(each in name for each in known) for name in names)
    assert cli.main(["data", "lint", str(out)]) == 0


def tools(text: str) -> list[dict]:
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [tool for row in rows for tool in row.get("tools", ())]


def test_methods_of_a_discovery_document_have_the_simple_properties_of_their_bodies(installed: Path) -> None:
    made = operations.domain("allotment", list(operations.of_discovery("allotment", DOCUMENT)), 40)
    functions = made.domain.functions
    assert set(functions) == {"list_plots", "create_plot", "delete_plot"} and made.skipped == 1
    create = functions["create_plot"]
    assert create.description == "Create a plot in Google Allotment."
    assert set(create.parameters) == {"title", "state"} and create.parameters["state"].enum == ("FREE", "RENTED")
    assert functions["delete_plot"].parameters["plotId"].what == "Id of the plot"


def test_every_question_for_a_service_says_its_arguments() -> None:
    rng = random.Random(3)
    functions = operations.domain(
        "greenhouse", list(operations.of_botocore("greenhouse", model())), 40
    ).domain.functions
    for function in functions.values():
        checker = schemas.checker(function.spec["function"]["parameters"])
        for template in function.ask:
            request = phrasing.request(function, template, rng)
            assert not list(checker.iter_errors(request.arguments)), request
            for path, said in request.said.items():
                assert said.words in request.text
                assert not said.words or verify.follows(said, function.parameter(path).of), request
    assert functions["get_bench_schedule"].description == "Get the schedule of a bench in Greenhouse."
    assert {
        function.required() == {"BenchName"} for function in functions.values() if "BenchName" in function.parameters
    }
    assert re.fullmatch("[a-z0-9-]{3,40}", functions["delete_bench"].parameters["BenchName"].draw(rng).value)


@pytest.mark.parametrize(
    ("words", "of", "description"),
    [
        (("Create", "DB", "Cluster"), ("Engine",), "Create a DB cluster in RDS."),
        (("Create", "Access", "Key"), ("UserName",), "Create an access key in RDS."),
        (("List", "Queues"), (), "List queues in RDS."),
        (("Delete", "Bucket", "Policy"), ("Bucket",), "Delete the policy of a bucket in RDS."),
        (("Reset", "Passwords"), (), "Reset the passwords in RDS."),
    ],
)
def test_a_description_is_made_of_the_name(words: tuple[str, ...], of: tuple[str, ...], description: str) -> None:
    fields = tuple(Field(name, "string", True) for name in of)
    assert operations.description(Operation("rds", "RDS", words, fields)) == description


@pytest.mark.parametrize(
    ("field", "about"),
    [
        (Field("BenchName", "string", True), "Name of the bench"),
        (Field("Name", "string", True), "Name of the policy"),
        (Field("VolumeIds", "string", True, True), "Ids of the volumes"),
        (Field("MaxResults", "integer", False), "Maximum number of results"),
        (Field("deletionProtectionEnabled", "boolean", False), "Whether deletion protection is enabled"),
        (Field("includeDeleted", "boolean", False), "Whether to include deleted"),
        (Field("StartTime", "time", False), "Start time (YYYY-MM-DDTHH:MM:SS)"),
        (Field("StorageClass", "string", False), "Storage class"),
    ],
)
def test_a_parameter_is_described_by_its_name_and_type(field: Field, about: str) -> None:
    assert operations.about(field, ["policy"]) == about


def test_catalogues_are_mixed(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--catalogue", "swift,google-api-python-client", "--services", "allotment")
    assert synth(installed / "rows.jsonl", *words) == 0
    assert "google-api-python-client: 3 functions of 1 services" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--catalogue", "boto"], "--catalogue: no catalogue 'boto': did you mean"),
        (["--services", "s3"], "--services has no effect without --catalogue"),
        (
            ["--catalogue", "botocore", "--services", "greenhous"],
            "--services: botocore: no service 'greenhous': did you mean",
        ),
        (["--catalogue", "botocore", "--functions", "held_out"], "--functions held_out has no effect on botocore"),
        (["--catalogue", "botocore"], "--services: none of the default services"),
    ],
)
def test_wrong_flags_are_one_line(
    installed: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synth(installed / "rows.jsonl", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"swift: error: {said}") and error.count("\n") == 1


def test_a_package_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swift.assembly.catalogues.find_spec", lambda name: None)
    assert synth(tmp_path / "rows.jsonl", "--catalogue", "botocore") == 2
    assert capsys.readouterr().err == (
        "swift: error: --catalogue botocore: the package is not installed: pip install botocore\n"
    )
