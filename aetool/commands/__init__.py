"""One module per command: take checked configs, call the stages, print."""
