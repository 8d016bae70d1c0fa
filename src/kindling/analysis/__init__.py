"""Predictions, figures, reports, leaderboards and significance of finished runs."""
