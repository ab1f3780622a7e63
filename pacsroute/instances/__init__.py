"""Composite instances and their files (PS3.10): spooled, saved, converted."""
