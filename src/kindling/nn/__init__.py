"""Metrics, losses, optimizers, schedules and pretrained nets."""
