"""One command a file. `cli.app` imports every file here; each registers its command with `cli.registry.command`."""
