from hcml_lightning.cli import main
from hcml_lightning.tools.bench import cores_needed


def test_it_tells_rates_shares_and_cores(synthetic_root, capsys):
    words = ["--data=UCF101DataModule", f"--data.root={synthetic_root('ucf101')}"]
    words += ["--data.clip_length=4", "--data.short_side=[40, 48]", "--data.crop_size=32"]
    words += ["--data.batch_size=2", "--data.flip=mirror", "--workers=[0, 1]", "--seconds=0.3"]
    assert main(["data", "bench", *words, "--step_ms=[100]"]) == 0
    said = capsys.readouterr().out
    assert "workers  clips/s" in said
    for name in ("decode", "crop, resize, flip", "transfer to the GPU"):
        assert f"  {name}" in said
    assert "a GPU whose step takes 100 ms needs 1 cores" in said


def test_cores_are_rounded_up():
    assert cores_needed(step_ms=100, batch_size=8, clips_per_core=25) == 4
    assert cores_needed(step_ms=99, batch_size=8, clips_per_core=25) == 4
    assert cores_needed(step_ms=50, batch_size=8, clips_per_core=25) == 7
