"""Parameters, FLOPs, activation memory and latency of a model. Needs PyTorch 2.4 or later."""

from lambda_det.analysis.flop_rules import PAPER, PLAIN, FlopRule
from lambda_det.analysis.flops import LambdaFlopCountAnalysis, count_flops

__all__ = ["PAPER", "PLAIN", "FlopRule", "LambdaFlopCountAnalysis", "count_flops"]
