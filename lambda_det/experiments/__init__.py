"""Experiments of several runs, and from records to what people read."""
