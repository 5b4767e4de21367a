"""Open byte pipes to the module: tcp, serial, and two ends in one loop for tests."""
