"""Our own HTTP/1.1 client, for many small calls. Use it through sender.Http1Sender."""
