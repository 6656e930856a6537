"""Tests of `components/operations`."""
