"""The environment of the e2e scenarios: hosts, an account, name servers, and the owner's commands."""
