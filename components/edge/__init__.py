"""How the Internet reaches the PDS: DNS records and the ingress."""
