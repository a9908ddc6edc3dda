"""The HTTP API: checks requests and passes them to the store. Its process keeps no data of its own."""
