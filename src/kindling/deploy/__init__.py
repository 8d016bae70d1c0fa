"""Predict on new data, export and serve."""
