"""The one owner of Redis: every key, script and connection."""
