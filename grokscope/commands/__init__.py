"""The commands, a module for each group; everything heavy is imported inside the command that needs it."""
