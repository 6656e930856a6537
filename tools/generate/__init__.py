"""Everything that is derived from the code: `python -m tools.generate [--check]`."""
