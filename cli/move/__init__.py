"""Moves a club to another host: of another stack, or of its own cluster."""
