"""Loading and converting weights, with a report of every tensor that was not loaded."""

from lambda_det.checkpoint.loading import check_frozen_weights, load_weights

__all__ = ["check_frozen_weights", "load_weights"]
