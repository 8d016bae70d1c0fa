"""Data modules: each wraps the download, the split, the transforms and the loaders of one source."""
