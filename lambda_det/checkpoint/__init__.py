"""Loading and converting weights, with a report of every tensor that was not loaded."""

from lambda_det.checkpoint.loading import check_frozen_weights, load_weights
from lambda_det.checkpoint.own_files import metadata_of_training

__all__ = ["check_frozen_weights", "load_weights", "metadata_of_training"]
