"""[metrics of a stage → **scores next to what they have to beat** → log, table, report]

Compares flow with zero flow, and predictions of the future with chance. Needs no PyTorch.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

# The end of a metric's name says what its value has to be compared with.
REFERENCES = {"_zero": "zero flow", "_chance": "chance"}
RIGHT_PHOTOMETRIC = "photometric ÷ valid"
# Terms of losses, and the health of features, by which no stage is judged.
DETAILS = re.compile("loss|flow|classification|flow_magnitude|smoothness|(spread|rank)_l[0-9]+")


class Score(NamedTuple):
    """A metric that a stage is judged by.

    Attributes:
        name: of the metric.
        value: of the metric.
        reference: what it has to beat and the value of that, in words; "" if there is nothing.
    """

    name: str
    value: float
    reference: str


def comparable(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics, measured at the same time, with those replaced or added that can be compared.

    Eq. 3 counts no error where the flow leaves the frame, which zero flow does nowhere, so the photometric error is
    divided by the share of pixels that count; without such pixels, there is none. The chance of being right is added to
    the chance loss.

    Example:
        >>> comparable({"val/photometric": 0.04, "val/photometric_zero": 0.06, "val/valid": 0.5})
        {'val/valid': 0.5, 'val/photometric ÷ valid': 0.08, 'val/photometric ÷ valid_zero': 0.06}
        >>> round(comparable({"val/contrast_l1_chance": math.log(8)})["val/contrast_l1_top1_chance"], 9)
        0.125
    """
    found = dict(metrics)
    for name, value in metrics.items():
        split, _, quantity = name.partition("/")
        valid = metrics.get(f"{split}/valid")
        if quantity == "photometric" and valid is not None:
            zero = found.pop(f"{name}_zero", None)
            del found[name]
            if valid > 0:
                found[f"{split}/{RIGHT_PHOTOMETRIC}"] = value / valid
                if zero is not None:
                    found[f"{split}/{RIGHT_PHOTOMETRIC}_zero"] = zero
        elif re.fullmatch("contrast_l[0-9]+_chance", quantity):
            found[f"{name.removesuffix('_chance')}_top1_chance"] = math.exp(-value)
    return found


def scores(metrics: Mapping[str, float]) -> list[Score]:
    """Return the metrics of validation and test that a stage is judged by.

    Example:
        >>> scores({"val/epe": 0.5, "val/epe_zero": 1.25, "val/loss": 3.0, "train/top1": 1.0})
        [Score(name='val/epe', value=0.5, reference='zero flow 1.25')]
    """
    found = comparable(metrics)
    shown = [
        name
        for name in sorted(found)
        if name.startswith(("val/", "test/"))
        and not name.endswith(tuple(REFERENCES))
        and not DETAILS.fullmatch(name.partition("/")[2])
    ]
    return [Score(name, found[name], _reference(name, found)) for name in shown]


def _reference(name: str, metrics: Mapping[str, float]) -> str:
    found = [f"{w} {metrics[name + s]:.4g}" for s, w in REFERENCES.items() if name + s in metrics]
    return found[0] if found else ""


def remarks(metrics: Mapping[str, float]) -> list[str]:
    """Return a warning for everything that a self-supervised stage, by the metrics of its end, has not learned."""
    found = comparable(metrics)
    said = [_flow_remark(found)] if "val/photometric" in metrics else []
    levels = [m[1] for m in map(re.compile("val/contrast_l([0-9]+)").fullmatch, found) if m]
    said += [_contrast_remark(level, found) for level in levels]
    return [remark for remark in said if remark is not None]


def _flow_remark(metrics: Mapping[str, float]) -> str | None:
    valid = metrics.get("val/valid", 1.0)
    if valid < 0.5:
        return (
            f"the flow points outside the frame for {1 - valid:.0%} of the pixels, which Eq. 3 does not count, so "
            "its low error means nothing. Lower lr, raise smoothness_weight, or use frames that are closer in time "
            "(frame_stride)."
        )
    names = (f"val/{RIGHT_PHOTOMETRIC}", f"val/{RIGHT_PHOTOMETRIC}_zero")
    error, zero = (metrics.get(name, math.nan) for name in names)
    if error >= 0.98 * zero:
        return (
            f"the flow reconstructs frames no better (photometric error {error:.4g} over the pixels that "
            f"it can reconstruct) than zero flow ({zero:.4g}), "
            "so the stages above would learn from features without motion. Lower smoothness_weight, use "
            "frames that are closer in time (frame_stride), train longer, or raise lr."
        )
    return None


def _contrast_remark(level: str, metrics: Mapping[str, float]) -> str | None:
    name = f"val/contrast_l{level}"
    loss, top1 = (metrics.get(key, math.nan) for key in (name, f"{name}_top1"))
    guess, share = (metrics.get(f"{key}_chance", math.nan) for key in (name, f"{name}_top1"))
    judged = (
        ("contrastive loss", loss, guess, loss >= guess),
        ("top-1", top1, share, top1 <= share),
    )
    if bad := [
        f"{what} {value:.4g}, chance {chance:.4g}"
        for what, value, chance, is_bad in judged
        if is_bad
    ]:
        return (
            f"the motion features of level {level} predict the future no better than chance ({'; '.join(bad)}), so the "
            "stages above would learn from features that say nothing about motion. Make sure that the stage before has "
            "learned, train longer, or change lr."
        )
    return None
