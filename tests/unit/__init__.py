"""Tests that start no real server, in folders as the source's."""
