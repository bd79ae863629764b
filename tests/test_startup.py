"""What answers at once imports nothing heavy; imports are counted, because times depend on the machine."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "pytorch_lightning",
    "torchvision",
    "torchmetrics",
    "av",
    "wandb",
    "jsonargparse",
    "numpy",
    "matplotlib",
}
COUNT = """
import sys
before = set(sys.modules)
{statement}
for name in set(sys.modules) - before:
    print("module", name)
"""


def imported(statement: str) -> set[str]:
    """Modules that a statement imports into a fresh Python."""
    command = [sys.executable, "-c", COUNT.format(statement=statement)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = output.splitlines()
    return {line.removeprefix("module ") for line in lines if line.startswith("module ")}


def packages(modules: set[str]) -> set[str]:
    """The third-party packages among them."""
    tops = {name.partition(".")[0] for name in modules}
    return tops - sys.stdlib_module_names - {"hcml_lightning"}


def command(*words: str) -> str:
    return f"""
from hcml_lightning.cli import main
try:
    main({list(words)})
except SystemExit as end:
    assert not end.code, end.code
"""


def test_importing_the_package_imports_no_other_package() -> None:
    modules = imported("import hcml_lightning; dir(hcml_lightning)")
    assert packages(modules) == set()
    assert len(modules) < 100


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["data", "--help"]], ids=" ".join)
def test_help_and_version_import_no_other_package(words: list[str]) -> None:
    modules = imported(command(*words))
    assert packages(modules) == set()
    assert len(modules) < 100


@pytest.mark.parametrize(
    "tool", ["progressive", "demo", "synthesize", "flops", "predict", "export"]
)
def test_help_of_a_tool_imports_no_heavy_package(tool: str) -> None:
    assert not packages(imported(command(tool, "--help"))) & HEAVY


def test_ops_losses_and_models_do_not_import_lightning() -> None:
    statement = "import hcml_lightning.ops, hcml_lightning.losses\nfrom hcml_lightning import MotionHierarchy"
    modules = packages(imported(statement))
    assert "torch" in modules
    assert not modules & (HEAVY - {"torch", "numpy"})
