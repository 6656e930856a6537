"""Tests of `components/settings`."""
