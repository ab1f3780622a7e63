"""The console: a server's work in a browser, for the person who runs it."""
