"""Restores, escrow files, and the import of another PDS."""
