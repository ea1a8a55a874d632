"""What is in front of faces, drawn: the examples that `training.tasks.cover` learns from."""
