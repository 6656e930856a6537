"""Commands over many stacks: which there are, what they cost, and updates of all."""
