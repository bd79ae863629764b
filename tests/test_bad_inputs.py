"""Bad input gets the message that docs/bad_inputs.md shows, with a next step, and never a traceback."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def bad_inputs(repository: Path) -> Any:
    sys.path.insert(0, str(repository / "benchmarks"))
    return importlib.import_module("bad_inputs")


# One test, so that the cases run only once.
def test_every_bad_input_gets_the_message_of_the_page(
    bad_inputs: Any, repository: Path, tmp_path: Path
):
    answers = bad_inputs.run(tmp_path.resolve())
    faults = [f"{a.fault}: {a.case.kind}: {a.case.what}: {a.said}" for a in answers if a.fault]
    assert not faults, "\n".join(faults)
    for kind in bad_inputs.KINDS:
        assert sum(answer.case.kind == kind for answer in answers) >= 10
    written = (repository / "docs" / "bad_inputs.md").read_text(encoding="utf-8").splitlines()
    now = bad_inputs.page(answers).splitlines()
    changed = [f"- {a}\n+ {b}" for a, b in zip(written, now, strict=False) if a != b]
    assert written == now, "python benchmarks/bad_inputs.py updates it\n" + "\n".join(changed)


def test_tracebacks_and_messages_without_a_next_step_are_faults(
    bad_inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def crash() -> list[str]:
        raise KeyError("a bug")

    def said(words: Callable[[], list[str]]) -> str:
        return bad_inputs.ask(bad_inputs.Case("config", "x", words), tmp_path).fault

    assert said(crash) == "a traceback"
    assert said(lambda: ["--version"]) == "it was accepted"
    assert said(lambda: ["train"]) == ""
    monkeypatch.setattr(bad_inputs, "hcml", lambda _: sys.exit("hcml fit: error: no"))
    assert said(list) == "no next step"
