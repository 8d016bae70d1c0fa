"""Benchmark, scaffold new parts and reproduce runs. The commands alone use it."""
