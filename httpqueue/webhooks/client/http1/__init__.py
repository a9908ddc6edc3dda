"""An HTTP/1.1 client of our own, for many small calls: sender is its door, every other module has one job."""
