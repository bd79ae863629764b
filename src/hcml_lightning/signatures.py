"""[arguments of a class → **what a notebook shows of them**]

Tasks and data modules hand on by `**kwargs` what their base class takes, so that each argument is written once.
"""

import inspect


def show_all_arguments(cls: type) -> None:
    """Let `help`, completion and documentation show a class with the arguments that it hands on to its bases.

    Args:
        cls: class whose `__init__` may end in `**kwargs`, which go to that of the next base.
    """
    shown: dict[str, inspect.Parameter] = {}
    rest: list[inspect.Parameter] = []
    for base in (base for base in cls.__mro__ if "__init__" in vars(base)):
        own = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        for parameter in own:
            if parameter.kind is not parameter.VAR_KEYWORD:
                # What comes through `**kwargs` has no position.
                kind = parameter.KEYWORD_ONLY if rest else parameter.kind
                shown.setdefault(parameter.name, parameter.replace(kind=kind))
        rest = [p for p in own if p.kind is p.VAR_KEYWORD]
        if not rest:
            break
    cls.__signature__ = _OfClass(inspect.Signature([*shown.values(), *rest]))  # type: ignore[attr-defined]


class _OfClass:
    """A signature that the class has, and not its objects, which may be called otherwise."""

    def __init__(self, signature: inspect.Signature) -> None:
        self.signature = signature

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        return self.signature
