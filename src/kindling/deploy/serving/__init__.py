"""The HTTP server of `python -m src.serve`. Imports no torch."""
