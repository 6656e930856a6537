"""A cluster: servers of Nomad, hosts as volumes and addresses, and workers that carry them."""
