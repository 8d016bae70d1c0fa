"""Compose a config, check it against signatures, and build what it names. Imports no torch at module level."""
