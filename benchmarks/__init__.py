"""Benchmarks: every figure is a ratio of two runs beside each other on the same machine."""
