"""Benchmarks of speed and memory, and the influence of an image's neighbours in a batch."""
