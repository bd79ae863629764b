"""[arguments of a class → **what a notebook shows of them**]

Tasks and data modules pass the arguments of their base class on as `**kwargs`, so that each is defined only once.
"""

import inspect


def show_all_arguments(cls: type) -> None:
    """Let `help`, completion and documentation also show the arguments that a class passes on to its bases.

    Args:
        cls: class whose `__init__` may end in `**kwargs`, which are passed to the `__init__` of the next base.
    """
    shown: dict[str, inspect.Parameter] = {}
    rest: list[inspect.Parameter] = []
    for base in (base for base in cls.__mro__ if "__init__" in vars(base)):
        own = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        for parameter in own:
            if parameter.kind is not parameter.VAR_KEYWORD:
                # Arguments that are passed on by `**kwargs` cannot be given by position.
                kind = parameter.KEYWORD_ONLY if rest else parameter.kind
                shown.setdefault(parameter.name, parameter.replace(kind=kind))
        rest = [p for p in own if p.kind is p.VAR_KEYWORD]
        if not rest:
            break
    cls.__signature__ = _OfClass(inspect.Signature([*shown.values(), *rest]))  # type: ignore[attr-defined]


class _OfClass:
    """Signature of a class that its instances do not have, because they may be called with other arguments."""

    def __init__(self, signature: inspect.Signature) -> None:
        self.signature = signature

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        return self.signature
