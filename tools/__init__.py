"""For contributors: offline preview, local trial, benchmark, policy pack, CI comment, and generated files."""
