"""Published data sets by name: found in the hubs' caches, read in their own shape, fetched, and registered."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from loopback import serving
from published import PUBLISHED

from swift import cli, flags
from swift.commands import datasets, infer
from swift.data import registry, repository_layout
from swift.data.mix import DataPlan, load_datasets
from swift.data.preprocessors import PREPROCESSORS
from swift.data.registry import catalogue, known
from swift.data.rows import BadRow
from swift.data.sources import resolve
from swift.flag_groups import DataFlags

MEDIA = {name for name, entry in known().items() if entry.modality != "text"}
ROW = {"query": "q", "response": "r"}


@pytest.fixture(autouse=True)
def no_network_and_empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    for name in ("HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "USE_HF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def modelscope(tmp_path):
    """Puts a file of rows into a repository of the ModelScope cache."""
    return lambda repository, name, rows: write(tmp_path / "modelscope/hub/datasets" / repository / name, rows)


@pytest.fixture
def hugging_face(tmp_path):
    """Puts a file of rows into a repository of the Hugging Face cache."""

    def put(repository, name, rows):
        folder = tmp_path / "huggingface/hub" / f"datasets--{repository.replace('/', '--')}" / "snapshots/abc"
        return write(folder / name, rows)

    return put


def write(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, encoding="utf-8")
    return path


def load(*names: str, **fields):
    fields = {"dataset_test_ratio": 0.0, "check_dataset_strategy": "error"} | fields
    return load_datasets(DataPlan(names, **fields), lambda line: None)


def turns(rows) -> list[list[tuple[str, str]]]:
    return [[(message.role, message.content) for message in row.messages] for row in rows]


def file_names(name: str) -> list[str]:
    """A file for each subset that is read by default."""
    entry = known()[name]
    return [f"{subset}/{entry.split[0]}.jsonl".strip("/") for subset in entry.read_by_default or ("",)]


# --- every published set


def test_every_published_set_has_rows_here():
    assert PUBLISHED.keys() | MEDIA == known().keys() - {"self-cognition"}
    assert len(PUBLISHED) + len(MEDIA) == 89


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_set_is_read_from_the_modelscope_cache(name, modelscope):
    rows, wanted = PUBLISHED[name]
    for file in file_names(name):
        modelscope(known()[name].ms, file, rows)
    for asked in (name, f"MS::{name}"):
        count = known()[name].count
        train, _, _ = load(f"{asked}#{len(wanted) * len(file_names(name))}" if count else asked)
        assert turns(train) == wanted * len(file_names(name))
        assert {row.source for row in train} == {name}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if known()[name].hf])
def test_a_published_set_is_read_from_the_hugging_face_cache(name, hugging_face):
    rows, wanted = PUBLISHED[name]
    for file in file_names(name):
        hugging_face(known()[name].hf, file, rows)
    train, _, _ = load(f"HF::{name}#{len(wanted) * len(file_names(name))}")
    assert turns(train) == wanted * len(file_names(name))


@pytest.mark.parametrize("name", sorted(MEDIA))
def test_a_set_with_images_or_sound_says_in_one_line_that_it_cannot_be_trained_on(name):
    with pytest.raises(ValueError, match=rf"^{name}: its modality is (image|audio); only text can be trained on$"):
        load(name)


def test_rows_with_images_or_sound_have_their_own_shape():
    image, caption = {"bytes": None, "path": "/cache/1.jpg"}, "a dog && a brown dog"
    for name, question in (
        ("coco", "Picture 1:<image>\nplease describe the image."),
        ("coco_plain", "<image>please describe the image."),
    ):
        row = PREPROCESSORS[name]({"image_id": 1, "image": image, "caption": caption})
        assert row == {"query": question, "response": "a dog ", "images": ["/cache/1.jpg"]}
    row = PREPROCESSORS["captcha"]({"image": "/cache/2.jpg", "solution": "x7Kp"})
    assert (row["response"], row["images"]) == ("x7Kp", ["/cache/2.jpg"])
    row = PREPROCESSORS["aishell"]({"Audio:FILE": "/cache/3.wav", "Text:LABEL": "广州 市 房地产"})
    assert (row["response"], row["audios"]) == ("广州市房地产", ["/cache/3.wav"])
    with pytest.raises(BadRow, match="'image'"):
        PREPROCESSORS["captcha"]({"solution": "x"})


def test_what_a_filter_leaves_out_is_counted(modelscope):
    modelscope("iic/ms_bench", "train.jsonl", PUBLISHED["ms-bench"][0])
    report = load("ms-bench")[2]
    assert dict(report.rows["ms-bench"]) == {"read": 6, "kept": 2, "filtered": 4}


def test_a_row_with_several_answers_counts_as_one_row_read(modelscope):
    modelscope("simpleai/HC3", "finance.jsonl", PUBLISHED["hc3-en"][0])
    train, _, report = load("hc3-en:finance")
    assert dict(report.rows["hc3-en"]) == {"read": 2, "kept": 3, "filtered": 1}
    assert [row.line for row in train] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "row", "rule"),
    [
        ("dureader-robust-zh", {"text1": "no separator", "text2": "q"}, "wrong-type"),
        ("hh-rlhf-helpful-base", {"chosen": "Hello", "rejected": "Hello"}, "wrong-type"),
        ("hh-rlhf-red-team-attempts", {"transcript": "\n\nHuman: Hi"}, "no-reply"),
        ("hh-rlhf-cn", {"context": [], "chosen": {"role": "a", "text": "b"}, "rejected": {"role": "a", "text": "c"}},
         "unknown-role"),
        ("hh-rlhf-cn", {"context": "oops", "chosen": {}, "rejected": {}}, "wrong-type"),
        ("jd-sentiment-zh", {"sentence": "s", "label": 2}, "bad-label"),
        ("jd-sentiment-zh", {"label": 1}, "missing-column"),
        ("leetcode-python-en", {"code_with_problem": "no code", "explanation_only": "e"}, "wrong-type"),
        ("toolbench-for-alpha-umi", {"conversations": [{"from": "system", "value": "alone"}]}, "wrong-type"),
        ("ms-agent-multirole", {"conversations": "oops"}, "wrong-type"),
        ("damo-agent-zh", {"conversations": "oops"}, "wrong-type"),
        ("ms-bench", {"conversations": "oops"}, "wrong-type"),
        ("agent-instruct-all-en", {"conversations": "oops"}, "wrong-type"),
        ("blossom-math-zh", {"input": "q", "output": "o"}, "missing-column"),
    ],
)  # fmt: skip
def test_a_row_of_another_shape_is_a_bad_row_and_not_the_end(name, row, rule, modelscope):
    for file in file_names(name):
        modelscope(known()[name].ms, file, [row, *PUBLISHED[name][0]])
    train, _, report = load(name, check_dataset_strategy="discard")
    assert train and set(report.rules) == {rule}


def test_turns_that_one_side_takes_in_a_row_are_one_turn():
    row = PREPROCESSORS["hh_rlhf"]({"transcript": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c"})
    assert (row["query"], row["response"]) == ("a\n\nb", "c")


def test_the_rejected_reply_stays_in_the_row():
    chosen, rejected = "\n\nHuman: a\n\nAssistant: yes", "\n\nHuman: a\n\nAssistant: no"
    assert PREPROCESSORS["hh_rlhf"]({"chosen": chosen, "rejected": rejected})["rejected_response"] == "no"


# --- names, subsets, splits, counts


def test_a_hub_id_means_the_set_that_is_known_by_it(modelscope):
    modelscope("lvjianjin/AdvertiseGen", "train.jsonl", PUBLISHED["advertise-gen-zh"][0])
    train, _, _ = load("MS::lvjianjin/advertisegen")
    assert turns(train) == PUBLISHED["advertise-gen-zh"][1]


def test_a_hub_id_of_several_sets_needs_a_subset_or_a_name(modelscope):
    modelscope("huangjintao/medical_zh", "zh/train.jsonl", PUBLISHED["medical-zh"][0])
    assert resolve("huangjintao/medical_zh:zh").name == "medical-zh"
    with pytest.raises(ValueError, match="choose one of medical-en, medical-zh"):
        resolve("huangjintao/medical_zh")


def test_self_cognition_is_the_set_that_comes_along_under_its_hub_ids_too():
    for name in ("self-cognition", "swift/self-cognition", "HF::modelscope/self-cognition"):
        assert resolve(name).name == "self-cognition"


def test_subsets_are_chosen_by_name_and_the_rest_stays_away(modelscope):
    files = {
        subset: modelscope("AI-ModelScope/hh-rlhf", f"{subset}/train.jsonl", [ROW])
        for subset in known()["hh-rlhf"].subsets
    }
    modelscope("AI-ModelScope/hh-rlhf", "helpful-base/test.jsonl", [ROW])
    assert set(resolve("hh-rlhf").files) == set(files.values()) - {files["red-team-attempts"]}
    assert resolve("hh-rlhf:red-team-attempts/helpful-base#7").files == (
        files["helpful-base"],
        files["red-team-attempts"],
    )
    assert resolve("hh-rlhf:helpful-base#7").count == 7
    assert resolve("hh-rlhf-helpful-online").files == (files["helpful-online"],)
    with pytest.raises(ValueError, match=r"no data file of the subset 'helpful'.*; its subsets are harmless-base, "):
        resolve("hh-rlhf:helpful")


def test_a_subset_that_is_missing_is_not_passed_over(modelscope):
    modelscope("simpleai/HC3", "finance.jsonl", [ROW])
    with pytest.raises(ValueError, match="no data file of the subset 'medicine'"):
        resolve("hc3-en")


def test_the_default_subset_is_what_names_no_other(modelscope):
    names = ("sharegpt_gpt4.jsonl", "sharegpt_V3_format.jsonl", "sharegpt_zh_38K_format.jsonl")
    plain, v3, zh = (modelscope("AI-ModelScope/sharegpt_gpt4", name, [ROW]) for name in names)
    assert resolve("sharegpt-gpt4-mini").files == (plain,)
    assert set(resolve("sharegpt-gpt4").files) == {plain, v3, zh}


def test_a_validation_set_is_read_from_the_splits_that_are_not_for_training(modelscope):
    modelscope("modelscope/clue", "cmnli/train.jsonl", PUBLISHED["cmnli-zh"][0] * 3)
    modelscope("modelscope/clue", "cmnli/validation.jsonl", PUBLISHED["cmnli-zh"][0])
    train, val, _ = load("cmnli-zh", val_dataset=("cmnli-zh",))
    assert (len(train), len(val)) == (3, 1)


def test_an_older_name_is_a_sample_or_a_subset_of_a_set(modelscope):
    modelscope("iic/ms_bench", "train.jsonl", [ROW])
    assert resolve("ms-bench-mini").count == 20000
    assert resolve("ms-bench-mini#5").count == 5


# --- what a repository declares


def test_the_card_of_a_repository_says_which_files_hold_what(hugging_face):
    card = """---
license: mit
configs:
- config_name: en
  default: true
  data_files:
  - split: train
    path: one/part-*
  - split: test
    path: [two.jsonl]
- config_name: zh
  data_files: three/**/*.jsonl
- config_name: ja
  data_dir: four
  data_files: {train: a.jsonl}
---
# A set
"""
    hugging_face("org/name", "README.md", card)
    files = {
        name: hugging_face("org/name", name, [ROW])
        for name in (
            "one/part-1.jsonl",
            "one/part-2.jsonl",
            "two.jsonl",
            "three/b.jsonl",
            "three/x/c.jsonl",
            "four/a.jsonl",
        )
    }
    assert resolve("org/name").files == (files["one/part-1.jsonl"], files["one/part-2.jsonl"])
    assert resolve("org/name").files == resolve("org/name:en").files
    assert resolve("org/name:zh").files == (files["three/b.jsonl"], files["three/x/c.jsonl"])
    assert resolve("org/name:ja").files == (files["four/a.jsonl"],)


def test_the_index_of_modelscope_says_which_files_hold_what(modelscope):
    index = {"default": {"train": {"meta": "a.csv", "file": ""}}, "more": {"train": {"meta": "b.csv", "file": ""}}}
    modelscope("org/name", "name.json", json.dumps(index))
    first = modelscope("org/name", "a.csv", "query,response\nq,r\n")
    second = modelscope("org/name", "b.csv", "query,response\nq,r\n")
    assert resolve("org/name").files == (first,)
    assert resolve("org/name:more").files == (second,)


def test_a_card_that_is_no_yaml_leaves_the_files_names(hugging_face):
    hugging_face("org/name", "README.md", "---\n: [\n---\n")
    file = hugging_face("org/name", "train.jsonl", [ROW])
    assert resolve("org/name").files == (file,)


def test_a_file_packed_with_zstandard_is_read(modelscope):
    import pyarrow as pa

    path = modelscope("huangjintao/pile-val-backup", "val.jsonl.zst", "")
    frames = [pa.compress(json.dumps({"text": word}).encode() + b"\n", "zstd", asbytes=True) for word in ("one", "two")]
    path.write_bytes(b"".join(frames))
    assert turns(load("pileval")[0]) == [[("assistant", "one")], [("assistant", "two")]]
    path.write_bytes(frames[0][:-4])
    with pytest.raises(ValueError, match=r"val\.jsonl\.zst: cannot be read"):
        load("pileval")


# --- incomplete downloads


def test_parts_that_are_missing_are_an_unfinished_download(hugging_face):
    hugging_face("org/name", "data/train-00000-of-00003.jsonl", [ROW])
    with pytest.raises(ValueError, match="incomplete download: 1 of 3 shards of data/train"):
        resolve("org/name")


def test_what_a_hub_left_when_it_was_interrupted_is_an_unfinished_download(tmp_path, hugging_face, modelscope):
    file = hugging_face("org/name", "train.jsonl", [ROW])
    write(file.parents[2] / "blobs" / "123.incomplete", "")
    with pytest.raises(ValueError, match=r"incomplete download: .*123\.incomplete"):
        resolve("org/name")
    file = modelscope("org/other", "train.jsonl", [ROW])
    assert resolve("org/other").files == (file,)
    write(tmp_path / "modelscope/hub/datasets/._____temp/org/other/train-2.jsonl", "")
    with pytest.raises(ValueError, match=r"incomplete download: .*train-2"):
        resolve("org/other")


# --- the network: a stand-in for Hugging Face


FILES = {
    "README.md": b"""---
configs:
- config_name: en
  data_files: en.jsonl
- config_name: zh
  data_files: zh.jsonl
---
""",
    "en.jsonl": b"".join(json.dumps({"query": f"q{n}", "response": "r" * 100}).encode() + b"\n" for n in range(500)),
    "zh.jsonl": json.dumps({"query": "问", "response": "答"}).encode() + b"\n",
    "picture.png": b"not to be fetched",
}


@pytest.fixture
def hub(monkeypatch):
    with serving("datasets", FILES) as (hub, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.delenv("SWIFT_OFFLINE")
        yield hub


def test_only_the_files_that_are_needed_are_fetched_and_later_the_others(hub, monkeypatch):
    assert turns(load("HF::org/name:zh")[0]) == [[("user", "问"), ("assistant", "答")]]
    fetched = {line for line in hub.asked if line.startswith("GET")}
    assert fetched == {"GET README.md", "GET zh.jsonl"}
    assert len(load("HF::org/name:en")[0]) == 500
    assert "GET en.jsonl" in hub.asked and "GET picture.png" not in hub.asked
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    assert len(load("HF::org/name")[0]) == 501


def test_a_subset_that_was_not_fetched_is_not_passed_over_without_a_network(hub, monkeypatch):
    load("HF::org/name:zh")
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"incomplete download: 0 of \d+ bytes of en\.jsonl"):
        load("HF::org/name")


def test_a_download_that_breaks_off_goes_on_where_it_was(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept of it; else 10 MB
    hub.cut = {"en.jsonl"}
    assert len(load("HF::org/name:en")[0]) == 500
    assert "GET en.jsonl again" in hub.asked


def test_a_download_that_was_given_up_is_not_trained_on(hub, monkeypatch):
    def free_packed(*_, **__):
        raise KeyboardInterrupt

    load("HF::org/name:zh")
    with monkeypatch.context() as context:
        context.setattr("huggingface_hub.file_download.http_get", free_packed)
        with pytest.raises(KeyboardInterrupt):
            load("HF::org/name")
    with monkeypatch.context() as context:
        context.setenv("SWIFT_OFFLINE", "1")
        with pytest.raises(ValueError, match=r"incomplete download: 0 of \d+ bytes of en\.jsonl"):
            load("HF::org/name")
    assert len(load("HF::org/name")[0]) == 501


def test_a_repository_without_a_card_is_fetched_by_its_files_names(hub, monkeypatch):
    monkeypatch.delitem(FILES, "README.md")
    assert len(load("HF::org/name:en")[0]) == 500
    assert "GET zh.jsonl" not in hub.asked


def test_a_file_cut_short_on_this_machine_is_not_trained_on(hub, monkeypatch):
    (file,) = resolve("HF::org/name:en").files
    file.resolve().write_bytes(FILES["en.jsonl"][:1000])
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"incomplete download: 1000 of \d+ bytes of en\.jsonl"):
        resolve("HF::org/name:en")


def test_a_hub_that_does_not_know_the_set_or_does_not_answer_is_named(hub, monkeypatch):
    with pytest.raises(ValueError, match=r"tried .*Hugging Face \(.*404"):
        resolve("HF::org/other")
    hub.mute = True
    with pytest.raises(ValueError, match=r"tried .*Hugging Face \(RemoteProtocolError"):
        resolve("HF::org/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"tried .*Hugging Face \(.*refused"):
        resolve("HF::org/name")


def test_the_program_of_modelscope_is_asked_for_files_that_can_be_read(tmp_path, monkeypatch):
    folder, wanted = tmp_path / "fetched", []
    write(folder / "train.jsonl", [ROW])

    class Program:
        @staticmethod
        def dataset_snapshot_download(repository, allow_file_pattern):
            wanted.extend([repository, *allow_file_pattern])
            return str(folder)

    monkeypatch.setitem(sys.modules, "modelscope", Program)
    monkeypatch.setitem(sys.modules, "modelscope.hub", Program)
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", Program)
    monkeypatch.setattr("swift.system.hubs.reach", lambda url: None)
    monkeypatch.delenv("SWIFT_OFFLINE")
    assert len(load("MS::org/name")[0]) == 1
    assert wanted[0] == "org/name" and {"*.jsonl", "*.jsonl.zst", "*.parquet", "README.md"} < set(wanted)


# --- sets of the user's own


@pytest.fixture
def register(tmp_path):
    def put(toml: str, **files: str) -> str:
        (tmp_path / "mine").mkdir(exist_ok=True)
        for name, content in files.items():
            (tmp_path / "mine" / f"{name}.py").write_text(content)
        (tmp_path / "mine" / "my.toml").write_text(toml)
        return "mine/my.toml"

    return put


def test_a_toml_file_gives_a_set_of_the_users_own_a_name(tmp_path, register):
    write(tmp_path / "mine" / "data.jsonl", [{"frage": "q", "antwort": "r", "input": "x"}])
    file = register(
        '[datasets.tickets]\npath = "data.jsonl"\ncolumns = { frage = "query", antwort = "response", input = "-" }\n'
        "[models.tiny]\nanything = 1\n"
    )
    train, _, _ = load("tickets", registry=(file,))
    assert turns(train) == [[("user", "q"), ("assistant", "r")]]
    with pytest.raises(ValueError, match="no file, folder or known data set"):
        load("tickets")
    with pytest.raises(ValueError, match="did you mean tickets"):
        load("ticket", registry=(file,))


def test_a_set_of_the_users_own_may_be_a_folder_with_subsets_or_lie_on_a_hub(tmp_path, register, hugging_face):
    for name in ("de/train", "en/train", "en/test"):
        write(tmp_path / "mine" / "rows" / f"{name}.jsonl", [{"sentence": name, "label": 1}])
    hugging_face("me/set", "train.jsonl", [ROW])
    file = register("""
[datasets.moods]
path = "rows"
subsets = ["de", "en"]
query = "Glad? {sentence}"
labels = ["no", "yes"]
[datasets.hubbed]
hf = "me/set"
[datasets.few]
of = "moods"
read = ["en"]
count = 3
[datasets.bench]
of = "ms-bench"
count = 10
""")
    known = catalogue([file])
    assert turns(load("moods:en", registry=(file,))[0]) == [[("user", "Glad? en/train"), ("assistant", "yes")]]
    assert len(load("moods", registry=(file,))[0]) == 2
    assert len(load("few", registry=(file,))[0]) == 3
    assert resolve("hubbed", known).name == resolve("me/set", known).name == "hubbed"
    assert (known["bench"].ms, known["bench"].rows, known["bench"].count) == ("iic/ms_bench", "ms_bench", 10)
    with pytest.raises(ValueError, match="no data file of the subset 'fr'"):
        load("moods:fr", registry=(file,))


def test_the_commands_know_the_names_of_the_users_own_sets(tmp_path, register):
    for split, count in (("train", 3), ("test", 2)):
        write(tmp_path / "mine" / "rows" / f"{split}.jsonl", [ROW] * count)
    file = register('[datasets.tickets]\npath = "rows"\nheld_out = ["test"]\n')
    wanted = flags.parse(infer.RowFlags, ["--val_dataset", "tickets"]).config
    assert len(infer.load_rows(wanted, [file])) == 2
    wanted = flags.parse(infer.RowFlags, ["--dataset", "tickets", "--dataset_test_ratio", "0"]).config
    assert len(infer.load_rows(wanted, [file])) == 3
    beside_flags = {"registry", "row_format"}
    assert {field.name for field in fields(DataPlan)} == {field.name for field in fields(DataFlags)} | beside_flags


CHAT = """
def chat(row):
    if row["skip"]:
        return None
    return [{"query": word, "response": row["reply"]} for word in row["words"]]
"""


def test_a_function_of_the_users_own_reads_odd_rows(tmp_path, register):
    rows = [{"skip": 0, "words": ["a", "b"], "reply": "r"}, {"skip": 1}, {"skip": 0, "words": None}]
    write(tmp_path / "mine" / "odd.jsonl", rows)
    file = register('[datasets.odd]\npath = "odd.jsonl"\nrows = "my_rows.py:chat"\n', my_rows=CHAT)
    train, _, report = load("odd", registry=(file,), check_dataset_strategy="discard")
    assert turns(train) == [[("user", "a"), ("assistant", "r")], [("user", "b"), ("assistant", "r")]]
    assert dict(report.rows["odd"]) == {"read": 3, "kept": 2, "filtered": 1, "bad": 1}
    with pytest.raises(ValueError, match=r"odd\.jsonl:3: row-function: my_rows\.py:chat: TypeError"):
        load("odd", registry=(file,))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def chat(row): return 1", "must return a dict, a list of them or None, not int"),
        ("def chats(row): return row", r"no function 'chat'; did you mean chats\?"),
        ("import nowhere_to_be_found", r"my_rows\.py: ModuleNotFoundError"),
        (None, "no such Python file"),
    ],
)
def test_what_is_wrong_with_a_function_of_the_users_own_is_told(tmp_path, register, code, message):
    write(tmp_path / "mine" / "odd.jsonl", [ROW])
    file = register(
        '[datasets.odd]\npath = "odd.jsonl"\nrows = "my_rows.py:chat"\n', **({"my_rows": code} if code else {})
    )
    with pytest.raises(ValueError, match=message):
        load("odd", registry=(file,))


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[datasets.x]\n", "x: has no location: set ms, hf or path"),
        ('[datasets.x]\nhf = "a/b"\ncolums = {}\n', r"unknown key 'colums'; did you mean columns\?"),
        ('[datasets.x]\nhf = "a/b"\nsubsets = "en"\n', "x: subsets must be a list of strings, not 'en'"),
        ('[datasets.x]\nhf = "a/b"\ncount = "5"\n', "x: count must be an integer >= 1, not '5'"),
        ('[datasets.x]\nhf = "a/b"\ncolumns = { a = 1 }\n', "x: columns must be"),
        ("[datasets.x]\nhf = 5\n", "x: hf must be a string, not 5"),
        ('[dataset.x]\nhf = "a/b"\n', r"unknown table \[dataset\]; did you mean datasets\?"),
        ('[x]\nhf = "a/b"\n', r"unknown table \[x\]; did you mean \[datasets\.x\]\?"),
        ('[datasets.x]\nof = "ms-bensh"\n', r"unknown data set 'ms-bensh'; did you mean ms-bench"),
        ("[datasets\n", "not TOML"),
        ("datasets = 1\n", r"data sets are tables, \[datasets\.NAME\]"),
    ],
)
def test_what_is_wrong_with_a_file_of_the_users_own_is_told_with_file_and_key(register, toml, message):
    with pytest.raises(ValueError, match=rf"^mine/my\.toml: .*{message}"):
        catalogue([register(toml)])


def test_a_row_function_that_is_not_there_is_told(register, modelscope):
    modelscope("a/b", "train.jsonl", [ROW])
    with pytest.raises(ValueError, match=r"x: rows = 'ms_bensh': unknown preprocessor; did you mean ms_bench\?"):
        load("x", registry=(register('[datasets.x]\nms = "a/b"\nrows = "ms_bensh"\n'),))
    with pytest.raises(ValueError, match=r"nowhere\.toml: cannot be read"):
        catalogue(["nowhere.toml"])


def test_every_row_function_of_the_table_exists_and_every_one_is_used():
    assert {entry.rows for entry in known().values()} == PREPROCESSORS.keys()
    for name, entry in known().items():
        registry.preprocessor_for(name, entry)


# --- the command and the page


def run(capsys, *argv: str) -> str:
    assert cli.main(["datasets", *argv]) == 0
    return capsys.readouterr().out


def test_the_command_lists_every_set_and_finds_by_name_id_and_tag(capsys):
    assert len(run(capsys).splitlines()) == len(known()) + 2
    assert "ms-agent " in run(capsys, "agent", "chat") and "alpaca" not in run(capsys, "agent", "chat")
    assert "advertise-gen-zh" in run(capsys, "shibing624")
    assert "audio: cannot be trained on" in run(capsys, "aishell1-zh-mini")


def test_the_command_gives_json(capsys):
    found = json.loads(run(capsys, "--json", "cmnli"))
    assert [row["name"] for row in found] == ["cmnli-zh", "cmnli-mini-zh"]
    assert found[0]["held_out"] == ["validation"] and found[0]["trainable"] is True
    assert len(json.loads(run(capsys, "--json"))) == len(known())


def test_the_command_lists_the_users_own_sets(capsys, register):
    file = register('[datasets.tickets]\npath = "data.jsonl"\n')
    assert "mine/data.jsonl" in run(capsys, "tickets", "--registry", file)


def test_a_word_that_finds_nothing_is_an_error_with_the_nearest_name(capsys):
    assert cli.main(["datasets", "medcal-zh"]) == 2
    assert "did you mean medical-zh?" in capsys.readouterr().err


def test_the_page_in_the_docs_is_the_one_made_from_the_table():
    page = Path(__file__).parents[1] / "docs" / "datasets.md"
    assert page.read_text(encoding="utf-8") == datasets.page(known()), "run: swift datasets --markdown true"


def test_the_listing_needs_no_heavy_library():
    code = "import sys; from swift import cli; cli.main(['datasets']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_layout_needs_no_more_than_names():
    names = ["train.jsonl", "b/test.csv.gz", "notes.txt"]
    assert repository_layout.choose(names, Path("nowhere"), (), ("train",)) == ["train.jsonl"]
