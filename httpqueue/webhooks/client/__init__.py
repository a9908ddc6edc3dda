"""The HTTP clients that call webhooks."""
