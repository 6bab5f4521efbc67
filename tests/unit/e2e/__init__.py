"""Tests of the end-to-end bodies' comparisons and proofs: each is shown to fail when it must."""
