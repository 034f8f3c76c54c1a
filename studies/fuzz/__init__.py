"""Random changes of what people hand in: success, or one line of error, and nothing else."""
