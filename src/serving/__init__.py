"""The parts of src/serve.py: the model and its batches, the application, the connections, and its pages."""
