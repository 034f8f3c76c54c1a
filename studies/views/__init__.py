"""Plots of what lambda layers attend to, and of receptive fields."""
