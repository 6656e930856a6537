"""Tests of `components/takeover`."""
