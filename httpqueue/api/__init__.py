"""The HTTP API: clients' requests are checked and handed to the store; the process keeps nothing."""
