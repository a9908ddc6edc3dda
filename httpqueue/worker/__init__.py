"""The worker process: it calls the webhooks of due timers."""
