"""Tasks: each a complete LightningModule, a net with its preprocessing, loss, optimizer and metrics."""
