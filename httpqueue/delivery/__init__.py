"""How a due timer reaches its destination."""
