"""The plugin without an engine, on the simulated NPU."""
