"""The engine: nobody has to open it to add a task."""
