"""Moves an account from another server to a stack's PDS (`./pds migrate-account`)."""
