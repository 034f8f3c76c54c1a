"""Endurance tests: trainings that are killed and resumed, and long trainings watched for leaks."""
