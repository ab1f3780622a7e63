"""The console: web pages that show an operator what the server is doing."""
