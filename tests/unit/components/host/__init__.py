"""Tests of `components/host`."""
