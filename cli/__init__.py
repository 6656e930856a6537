"""`./pds`: an operator's commands beside `pulumi`."""
