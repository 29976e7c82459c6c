"""What relay and gateway share: names, the message format, settings, and the link to Redis."""
