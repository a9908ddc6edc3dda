"""The API in words: what requests and answers look like, and how they are read and written."""
