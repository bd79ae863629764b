"""[frames → features → **ops** → models and losses]

Tensor functions without parameters. Everything fast has a readable twin that gives the same numbers.
"""

from hcml_lightning.ops.cost_volume import cost_volume, cost_volume_reference
from hcml_lightning.ops.warp import warp

__all__ = ["cost_volume", "cost_volume_reference", "warp"]
