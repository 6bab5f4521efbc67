"""The bodies that cells run: each serves a model on a device and compares it with a reference."""
