"""The store: one folder a run, one SQLite file a process; nothing heavy is imported until a run is read."""
