"""Image files: folders, lists and masks."""
