"""The families of detectors, a room each."""
