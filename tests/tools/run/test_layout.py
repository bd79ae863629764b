"""The checkpoint of a run is found in its folder."""

from pathlib import Path

from hcml_lightning.tools.run.layout import checkpoint_near


def test_checkpoint_near_finds_the_noted_checkpoint_of_a_moved_run(tmp_path: Path):
    def checkpoint(*parts: str) -> Path:
        path = tmp_path.joinpath(*parts, "checkpoints", "last.ckpt")
        path.parent.mkdir(parents=True)
        path.touch()
        return path

    noted, beside = checkpoint("old", "version_0"), checkpoint("new", "version_0")
    own = checkpoint("new", "version_1")
    folder = tmp_path / "new" / "version_1"
    assert checkpoint_near(folder, noted) == own
    own.unlink()
    assert checkpoint_near(folder, noted) == noted
    # A relative path is not taken from the working folder.
    relative = Path("version_0", "checkpoints", "last.ckpt")
    assert checkpoint_near(folder, relative) == beside
    noted.unlink()
    assert checkpoint_near(folder, noted) == beside
    beside.unlink()
    assert checkpoint_near(folder, noted) is None
