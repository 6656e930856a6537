"""The PDS itself: its secrets and its Nomad job."""
