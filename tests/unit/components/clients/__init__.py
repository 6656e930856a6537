"""Tests of `components/clients`."""
