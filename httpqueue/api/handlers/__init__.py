"""The handlers: each module serves some paths of the API."""
