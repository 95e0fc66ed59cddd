"""Every sum and activation of a fully connected net, step by step."""
