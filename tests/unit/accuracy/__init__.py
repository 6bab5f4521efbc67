"""Tests of the accuracy room: no engine."""
