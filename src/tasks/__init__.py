"""Tasks: each a complete LightningModule, a net with its loss, optimizer and metrics."""
