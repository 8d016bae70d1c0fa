"""Benchmark, scaffold new parts and reproduce runs."""
