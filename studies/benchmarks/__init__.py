"""Speed and memory beside alternatives, and what batch mates do to an image."""
