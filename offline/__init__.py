"""The program without an engine: evaluation, stack files, and the rules of replacement."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder, which has Pulumi.yaml and the stack files."""
