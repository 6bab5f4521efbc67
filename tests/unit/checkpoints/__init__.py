"""Tests of matrix.checkpoints."""
