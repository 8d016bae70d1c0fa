"""Kindling: a Lightning experiment template. `python -m src` lists the commands."""
