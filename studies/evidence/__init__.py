"""The comparisons whose numbers MODEL_ZOO.md shows."""
