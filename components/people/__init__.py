"""Members, invites, removals, and e-mail addresses that count as confirmed."""
