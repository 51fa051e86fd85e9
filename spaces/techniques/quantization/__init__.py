"""Fewer bits: deployment steps for each runtime, and quantization-aware training."""
