"""Whole engines, servers and pages, each in a process of its own."""
