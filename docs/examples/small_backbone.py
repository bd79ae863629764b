"""A smaller R2D, and one step of the flow bootstrap with it."""

import torch

from hcml_lightning import FlowTask
from hcml_lightning.models.backbones import BACKBONES, BackboneSpec

# Half as wide as R2D-50, two blocks a stage; on small maps it looks at every cell within reach.
BACKBONES["r2d26_half"] = BackboneSpec(
    blocks=(2, 2, 2, 2), width=32, max_displacement=3, stride=1, flow_growth=16
)


def first_step() -> tuple[float, float]:
    """Return the photometric error of one clip before and after a step downhill."""
    torch.manual_seed(0)
    task = FlowTask(backbone="r2d26_half", num_classes=2)
    clip = torch.randint(0, 256, (1, 3, 4, 64, 64), dtype=torch.uint8)
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-3)

    errors = []
    for _ in range(2):
        motion = task.model.network.motion_features(clip, up_to=0)[0]  # P⁰, (1, 32, 4, 16, 16)
        error = task.flow_terms(0, motion, clip).photometric
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    return errors[0], errors[1]


if __name__ == "__main__":
    before, after = first_step()
    print(f"photometric error: {before:.6f}, then {after:.6f}")
