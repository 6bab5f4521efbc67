"""Quantised layers: vLLM's own configurations read checkpoints, and CANN multiplies."""
