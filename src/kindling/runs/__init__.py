"""A run's directory and its provenance. Imports no torch at module level."""
