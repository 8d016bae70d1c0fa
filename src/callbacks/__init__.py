"""Callbacks and the metrics file: what watches a training from the side."""
