"""Paged attention on the NPU."""
