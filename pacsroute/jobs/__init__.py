"""Work that survives the process: jobs in lanes, forwarding, and series that are complete."""
