"""Fuzzing: a randomly changed input must be accepted, or give one line of error."""
