"""Examples to copy: each file is one experiment, its data and its task together."""
