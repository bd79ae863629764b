"""The signature that a notebook shows of a class has all its arguments."""

import inspect
from typing import Any

import pytest

from hcml_lightning import (
    ContrastTask,
    FlowTask,
    KineticsDataModule,
    ProbeTask,
    RecognitionTask,
    SomethingDataModule,
    UCF101DataModule,
    VideoFolderDataModule,
)
from hcml_lightning.data.datamodule import VideoDataModule
from hcml_lightning.signatures import show_all_arguments
from hcml_lightning.tasks.base import MotionTask

DATA = (UCF101DataModule, KineticsDataModule, SomethingDataModule, VideoFolderDataModule)
TASKS = (FlowTask, ContrastTask, RecognitionTask, ProbeTask)


@pytest.mark.parametrize(
    ("cls", "base"), [*((c, VideoDataModule) for c in DATA), *((c, MotionTask) for c in TASKS)]
)
def test_arguments_of_the_base_are_shown(cls: type, base: type):
    shown, own = inspect.signature(cls).parameters, inspect.signature(cls.__init__).parameters
    assert set(shown) >= set(inspect.signature(base).parameters)
    assert "kwargs" not in shown
    assert not hasattr(cls.__new__(cls), "__signature__")
    # Own defaults take precedence over those of the base.
    assert all(shown[n].default == p.default for n, p in own.items() if n in shown)


def test_shown_signature_adds_arguments_of_bases_as_keywords():
    class Base:
        def __init__(self, a: int, b: int = 2) -> None: ...

    class Middle(Base):
        def __init__(self, c: int, **rest: Any) -> None: ...

    class Last(Middle):
        def __init__(self, d: int, b: int = 3, **rest: Any) -> None: ...

    class Open(Base):
        def __init__(self, *, c: int = 0, **rest: Any) -> None: ...

    class Own(Open):
        pass

    class Hidden(Base):
        def __init__(self, **rest: Any) -> None: ...

    for cls in (Last, Own, Hidden):
        show_all_arguments(cls)
    assert str(inspect.signature(Last)) == "(d: int, b: int = 3, *, c: int, a: int)"
    assert str(inspect.signature(Own)) == "(*, c: int = 0, a: int, b: int = 2)"
    assert str(inspect.signature(Hidden)) == "(*, a: int, b: int = 2)"
