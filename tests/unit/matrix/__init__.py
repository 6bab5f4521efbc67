"""Unit tests of the matrix."""
