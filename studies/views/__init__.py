"""What the lambda layers of a network look at."""
