"""Data larger than memory: Parquet and tar shards, read in an order that is a function."""
