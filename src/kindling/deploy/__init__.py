"""Predict on new data, export and serve. The commands alone use it."""

import os

# The wheels of onnxruntime 1.31 for Linux report usage over the network and keep a device ID.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
