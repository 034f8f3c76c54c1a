"""The parameter and FLOP tables of the paper, recomputed, and the rule of its FLOPs."""
