"""Data modules: each wraps download, split, transforms and loaders of one source."""
