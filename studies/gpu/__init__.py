"""What is known of the GPU's kernels without a GPU: what the compiler makes of them, and what the
compiled code computes."""
