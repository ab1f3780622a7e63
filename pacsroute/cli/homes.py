"""The commands of pacsroute itself, and the module that each is in."""

HOMES = {
    "run": "run",
    "routes": "routes",
    "conformance": "conformance",
    "shell": "shell",
    "jobs": "jobs",
    "new": "new",
    "archive": "archive",
    "echo": "clients",
    "find": "clients",
    "get": "clients",
    "move": "clients",
    "store": "sending",
    "explain": "tracing",
    "replay": "tracing",
}
