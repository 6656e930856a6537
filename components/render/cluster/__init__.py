"""What is rendered for a cluster: user_data, agents, and the takeover's job."""
