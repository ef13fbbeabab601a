"""Files and folders that appear complete or not at all."""

from pathlib import Path

import pytest

from swift.system.atomic_write import atomic_file, atomic_folder


def test_a_folder_takes_the_place_of_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "model"
    for text in ("first", "second"):
        with atomic_folder(target) as folder:
            (folder / "file").write_text(text)
        assert (target / "file").read_text() == text
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.write_text("old")
    for target, write in ((folder, atomic_folder), (file, atomic_file)):
        with pytest.raises(OSError, match="full"), write(target):
            raise OSError("the disk is full")
    assert file.read_text() == "old" and sorted(tmp_path.iterdir()) == [file, folder]


def test_a_folder_that_another_process_has_finished_stays(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_folder(target, keep=lambda folder: (folder / "file").is_file()) as folder:
        (folder / "file").write_text("ours")
        target.mkdir()
        (target / "file").write_text("theirs")
    assert (target / "file").read_text() == "theirs" and list(tmp_path.iterdir()) == [target]


def test_a_file_appears_when_it_is_written(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "new" / "file") as written:
        written.write_text("text")
        assert not (tmp_path / "new" / "file").exists()
    assert (tmp_path / "new" / "file").read_text() == "text" and len(list((tmp_path / "new").iterdir())) == 1
