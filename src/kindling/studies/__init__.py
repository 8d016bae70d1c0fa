"""Many runs of one config: search, folds and seeds. The commands alone use it."""
