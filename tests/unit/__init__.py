"""Fast tests: no engine, no device, no network."""
