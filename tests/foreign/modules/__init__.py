"""Modules as their authors would publish them: nothing here knows of Kindling."""
