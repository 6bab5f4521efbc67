"""Perf: whether serving is as fast as it should be; benchmarks, which are never tests."""
