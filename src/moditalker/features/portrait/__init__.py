"""A still picture that moves: its head and its eyelids."""
