"""Bad input: what a command says of it, and its exit status."""
