"""A file is written whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from hcml_lightning.checkpoint_files import previous_of
from hcml_lightning.resume import AtomicCheckpointIO
from hcml_lightning.storage import whole, write_whole


def write_half(file: Path, end: type[BaseException]) -> None:
    with whole(file) as partial:
        partial.write_text("half")
        raise end


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt])
def test_interrupted_write_keeps_the_old_file(tmp_path: Path, end: type[BaseException]):
    file = tmp_path / "new" / "a.png"
    with whole(file, ".part.png") as partial:
        partial.write_text("first")
        assert not file.exists()
        assert (partial.parent, partial.suffix) == (file.parent, ".png")
    with pytest.raises(end):
        write_half(file, end)
    assert [(path.name, path.read_text()) for path in file.parent.iterdir()] == [("a.png", "first")]


def test_nothing_is_written_through_a_link(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / ".a.part").symlink_to(mine)
    write_whole(tmp_path / "a", b"new")
    assert (mine.read_text(), (tmp_path / "a").read_text()) == ("mine", "new")


@pytest.mark.parametrize(
    ("number", "ends"),
    [("EINVAL", False), ("ENOTSUP", False), ("EBADF", False), ("ENOSPC", True), ("EIO", True)],
)
def test_folder_without_fsync_is_tolerated_but_a_disk_error_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, ends: bool
):
    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(getattr(errno, number), number)

    monkeypatch.setattr(os, "fsync", refuse)
    if ends:
        with pytest.raises(OSError, match=number):
            write_whole(tmp_path / "a", b"new")
    else:
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_removing_a_checkpoint_also_removes_the_one_before_it(tmp_path: Path):
    path, disk = tmp_path / "epoch_003.ckpt", AtomicCheckpointIO()
    for number in (1, 2):
        disk.save_checkpoint({"number": number}, path)
    assert previous_of(path).is_file()
    disk.remove_checkpoint(path)
    assert not list(tmp_path.iterdir())
