"""The main job on a real survey field, by the command lines that a user would type."""
