"""Programs that the workflows in `.github/workflows` run beside `make`, `pulumi` and `./pds`. Standard library only."""
