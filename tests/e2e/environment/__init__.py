"""The environment of the e2e scenarios: hosts, an account, name servers, and the operator's commands."""
