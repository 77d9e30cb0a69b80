"""Pictures and boxes: reading, letterbox, suppression, decoding, drawing, and what a network must offer. No torch."""
