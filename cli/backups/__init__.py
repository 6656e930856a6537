"""Restores, moves of blobs, and the import of another PDS."""
