"""The demonstration: generated pictures, a toy base that was pretrained on them, and the whole way run on both."""
