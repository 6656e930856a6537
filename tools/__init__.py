"""Commands beside `pulumi`: offline preview, local trial, escrow, benchmark, and generated files."""
