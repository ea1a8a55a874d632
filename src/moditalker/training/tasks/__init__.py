"""The training tasks: each has a model, batches, a loss and a validation."""
