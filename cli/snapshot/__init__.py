"""Reading and checking a snapshot of a PDS on this machine."""
