"""The machine: devices, processes, signals, streams."""
