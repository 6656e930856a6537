"""What people run beside `pulumi`: offline preview, local trial, escrow, benchmark, and what is generated."""
