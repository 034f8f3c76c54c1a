"""Parameters, FLOPs, activation memory and latency of a model."""

from lambda_det.analysis.flops import LambdaFlopCountAnalysis, count_flops

__all__ = ["LambdaFlopCountAnalysis", "count_flops"]
