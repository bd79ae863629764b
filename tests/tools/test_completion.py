"""The completion script, called as the shell calls it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hcml_lightning.tools import completion
from hcml_lightning.tools.commands import TOOL_COMMANDS, TRAINER_COMMANDS


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "hcml.bash"
    path.write_text(completion.script("bash", completion.whole_parser()))
    return path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("hcml ", {*TRAINER_COMMANDS, *TOOL_COMMANDS}),
        ("hcml pro", {"progressive"}),
        ("hcml fit --model.temp", {"--model.temperature"}),
        ("hcml fit --trainer.max_ep", {"--trainer.max_epochs"}),
        ("hcml fit -c stages/1", {"stages/1_flow.yaml"}),
        ("hcml progressive --run", {"--run_dir"}),
        ("hcml progressive --data.ro", {"--data.root"}),
        ("hcml data check --lim", {"--limit_s"}),
        ("hcml predict --to", {"--top_k"}),
    ],
)
def test_bash_completion_offers_matching_words(typed: str, offered: set[str], bash_script: Path):
    words = " ".join(f"'{word}'" for word in typed.split(" "))
    asked = f"""source {bash_script}
        COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _shtab_hcml
        printf '%s\\n' "${{COMPREPLY[@]}}" """
    answer = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert {*answer.stdout.split()} - {"-h", "--help", "--version"} == offered


def test_zsh_script_is_valid_and_small(bash_script: Path):
    script = completion.script("zsh", completion.whole_parser())
    assert script.startswith("#compdef hcml")
    assert "--model.temperature" in script
    assert max(len(script), bash_script.stat().st_size) < 200_000
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n"], input=script, text=True, check=True)


def test_missing_shtab_is_reported_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ImportError, match=r"hcml-lightning\[completion\]"):
        completion.script("bash", completion.make_parser())
