"""Tests of `components/render`."""
