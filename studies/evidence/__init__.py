"""The experiments whose numbers MODEL_ZOO.md shows: what a lambda layer is needed for."""
