"""Tests of `policy`."""
