"""Announced removals in libraries that would break pytorch-lightning 2.6: noticed here, and not in a run."""

from importlib import import_module

import pytest
from jsonargparse import ArgumentParser

HELD = "pytorch-lightning 2.6 needs {name}, which this {library} no longer has: keep its upper bound in pyproject.toml"


@pytest.mark.parametrize("name", ["add_instantiator", "instantiate_classes"])
def test_jsonargparse_has_what_lightning_calls(name: str):
    assert hasattr(ArgumentParser, name), HELD.format(name=name, library="jsonargparse")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jsonargparse_writes_configs_as_lightning_asks_for_them():
    parser = ArgumentParser()
    parser.add_argument("--x")
    try:
        text = parser.dump(parser.parse_args([]), skip_none=False)
    except TypeError:
        pytest.fail(HELD.format(name="skip_none", library="jsonargparse"))
    assert text == "x: null\n"


@pytest.mark.parametrize(
    ("module", "name"), [("wandb.sdk.lib", "RunDisabled"), ("wandb.wandb_run", "Run")]
)
def test_wandb_has_what_lightning_imports(module: str, name: str):
    pytest.importorskip("wandb")
    assert hasattr(import_module(module), name), HELD.format(name=name, library="wandb")
