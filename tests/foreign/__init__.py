"""Other people's Lightning modules, which Kindling trains unchanged."""
