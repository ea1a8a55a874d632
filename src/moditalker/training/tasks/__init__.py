"""What is trained: each task brings a model, batches, a loss and a validation."""
