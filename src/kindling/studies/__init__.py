"""Many runs of one config: search, folds and seeds."""
