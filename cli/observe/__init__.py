"""What is going on: logs, traffic, and the ways to a stack's host."""
