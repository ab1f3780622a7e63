"""How each DIMSE service turns a handler's result into responses (PS3.4)."""
