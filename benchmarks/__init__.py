"""Benchmarks: bounds that must hold, and speed as ratios of two runs on the same machine."""
