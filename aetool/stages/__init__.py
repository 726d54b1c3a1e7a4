"""What is done with a run: objects in, metrics out."""
