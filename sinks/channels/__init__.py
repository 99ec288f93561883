"""Where notifications go: one channel a file."""
