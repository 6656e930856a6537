"""Tests of `components/dynamic`."""
