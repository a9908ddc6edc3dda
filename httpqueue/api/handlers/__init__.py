"""What the API does: each module handles the requests to some paths. No handler imports another one."""
