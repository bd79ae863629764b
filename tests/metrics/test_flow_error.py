"""The end-point error, checked by hand."""

import math

import pytest
import torch

from hcml_lightning.metrics import EndPointError


def test_end_point_error_is_the_mean_over_all_pairs_of_all_batches() -> None:
    error = EndPointError()
    error.update(torch.zeros(1, 2, 3, 3), torch.full((1, 2, 3, 3), 2.0))
    error.update(torch.ones(3, 2, 3, 3), torch.ones(3, 2, 3, 3))
    assert float(error.compute()) == pytest.approx(math.sqrt(8) / 4)
    with pytest.raises(ValueError, match="same shape"):
        error.update(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))
