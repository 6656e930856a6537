"""The droplet's cloud-init, with the files in `files/`."""
