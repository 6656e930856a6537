"""Tests of `components/people`."""
