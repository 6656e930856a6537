"""The PDS's Nomad jobs as HCL text."""
