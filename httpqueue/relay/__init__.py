"""The relay process: it fills the queue from the store."""
