"""The console: what a server does, in a browser, for the person who runs it."""
