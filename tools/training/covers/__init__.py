"""What is in front of faces, drawn: the examples that `task.py` learns from."""
