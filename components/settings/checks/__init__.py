"""Checks of options that belong together, and warnings. `validation.py` lists the checks."""
