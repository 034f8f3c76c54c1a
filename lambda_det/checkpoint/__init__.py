"""Weights in: reading them, and saying what was not read."""

from lambda_det.checkpoint.loading import check_frozen_weights, load_weights

__all__ = ["check_frozen_weights", "load_weights"]
