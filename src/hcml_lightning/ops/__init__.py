"""[frames → features → **ops** → models and losses]

Tensor functions without parameters. The fast cost volume has a readable reference that gives the same numbers.
"""

from hcml_lightning.ops.cost_volume import cost_volume, cost_volume_reference
from hcml_lightning.ops.warp import warp

__all__ = ["cost_volume", "cost_volume_reference", "warp"]
