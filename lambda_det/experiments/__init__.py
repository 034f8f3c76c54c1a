"""From records of runs and counts to what people read."""
