"""Benchmarks, endurance tests and experiments with the plugin; they are not part of the wheel."""
