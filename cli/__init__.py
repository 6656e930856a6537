"""`./pds`: operator commands that complement `pulumi`."""
