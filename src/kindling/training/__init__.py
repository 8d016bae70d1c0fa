"""Build a config's parts, rehearse, fit, checkpoint and resume."""
