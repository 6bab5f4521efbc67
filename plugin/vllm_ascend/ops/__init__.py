"""Layers of vLLM implemented by CANN's fused operators."""
