"""The accounts on a PDS."""
