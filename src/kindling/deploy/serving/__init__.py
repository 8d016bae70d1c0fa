"""The parts of src/serve.py: model and batches, application, decoders, connections, pages."""
