"""The console's pages: each is a function that takes a `Visit` and returns a response."""
