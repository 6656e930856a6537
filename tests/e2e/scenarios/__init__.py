"""The scenarios of `make e2e`."""
