"""The Flask part, without a socket: blueprints, decorators, routes, requests, and their results."""
