"""The generated datasets of the quick start and of the tests."""
